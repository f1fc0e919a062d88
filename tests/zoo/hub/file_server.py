"""An HTTP server on this machine that misbehaves as it is told."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_TARGETS = {"moved": "/good/file.bin", "away": "http://192.0.2.1/file.bin", "astray": "http://["}


class FileServer:
    """Serves `content` under any path; the path's first part says how.

    `good` and `plain` (which ignores ranges) are honest. `cut` ends after 1000 bytes of every
    answer, `stuck` gives 1000 bytes and no more until the server ends, unless it is asked to go on
    from somewhere, `shifted` resumes elsewhere than asked. `gated` gives a byte now and then, and
    the others once `gate` is set. `wrong` and `short` give other bytes, `long` too many without
    saying how many. `missing` and `broken` answer 404 and 500, `moved` leads to `good`, `away` to
    an address without encryption, `astray` to none.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.requests: list[tuple[str, str | None]] = []
        self.ending = threading.Event()
        self.gate = threading.Event()
        self.asked = threading.Event()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def url(self, how: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/{how}/file.bin"

    def close(self) -> None:
        self.ending.set()
        self.gate.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    owner: FileServer

    def do_GET(self) -> None:
        how = self.path.split("/")[1]
        asked = self.headers.get("Range")
        self.owner.requests.append((how, asked))
        self.owner.asked.set()
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        content = self.owner.content
        if how in ("missing", "broken"):
            self.send_error(404 if how == "missing" else 500)
        elif how in _TARGETS:
            self.send_response(302)
            self.send_header("Location", _TARGETS[how])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif how == "plain":
            self._answer(content, 0, len(content))
        elif how == "wrong":
            self._answer(content[::-1], start, len(content))
        elif how == "short":
            self._answer(content[:50], 0, 50)
        elif how == "long":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content + b"more")
        elif how == "shifted" and start:
            self._answer(content, start - 1, len(content))
        elif how == "stuck" and not start:
            self._answer(content, 0, 1000)
            self.owner.ending.wait()
        elif how == "gated":
            self._answer(content, start, start)
            while not self.owner.gate.wait(0.2):  # lest the server be taken to be gone
                self.wfile.write(content[start : start + 1])
                start += 1
            self.wfile.write(content[start:])
        else:
            self._answer(content, start, start + 1000 if how in ("cut", "shifted") else None)

    def _answer(self, content: bytes, start: int, end: int | None) -> None:
        """The part of `content` from `start`, of which only what lies before `end` is sent."""
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[start:end])
        self.wfile.flush()

    def log_message(self, *_args: object) -> None:
        """Nothing: the tests look at `requests`."""
