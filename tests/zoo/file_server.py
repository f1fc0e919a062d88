"""An HTTP server on this machine with configurable faults."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_TARGETS = {"moved": "/good/file.bin", "away": "http://192.0.2.1/file.bin", "astray": "http://["}


class FileServer:
    """Serves `content` under any path; the first part of the path selects the behaviour.

    `good` is correct. `cut` ends every answer after 1000 bytes, `flaky` only the first one. `stuck`
    sends 1000 bytes of its first answer and then nothing until the server closes. `gated` sends a
    byte now and then, and the others once `gate` is set. `wrong` and `short` send other bytes,
    `long` too many without a length. `missing` and `broken` answer 404 and 500, `moved` redirects
    to `good`, `away` to an unencrypted address, `astray` to an invalid one.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.requests: list[str] = []
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
        is_first = how not in self.owner.requests
        self.owner.requests.append(how)
        self.owner.asked.set()
        content = self.owner.content
        if how in ("missing", "broken"):
            self.send_error(404 if how == "missing" else 500)
        elif how in _TARGETS:
            self.send_response(302)
            self.send_header("Location", _TARGETS[how])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif how == "long":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content + b"more")
        elif how == "gated":
            self._answer(content, 0)
            sent = 0
            while not self.owner.gate.wait(0.2):  # faster than the client's timeout
                self.wfile.write(content[sent : sent + 1])
                sent += 1
            self.wfile.write(content[sent:])
        elif how == "stuck" and is_first:
            self._answer(content, 1000)
            self.owner.ending.wait()
        elif how == "cut" or (how == "flaky" and is_first):
            self._answer(content, 1000)
        else:
            self._answer({"wrong": content[::-1], "short": content[:50]}.get(how, content))

    def _answer(self, content: bytes, sent: int | None = None) -> None:
        """Announce `content`, and send its first bytes."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:sent])
        self.wfile.flush()

    def log_message(self, *_args: object) -> None:
        """Ignore messages; the tests read `requests`."""
