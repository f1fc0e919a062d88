"""A second user of this machine: a process that has given up the rights of root."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import tempfile
import traceback

import pytest

NOBODY = 65534

needs_second_user = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can act as a second user"
)


@contextlib.contextmanager
def shared_folder():
    """A folder in which every user may make files, but not remove those of others."""
    path = tempfile.mkdtemp(prefix="vision-test-")
    os.chmod(path, 0o1777)  # noqa: S103 - like /tmp
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextlib.contextmanager
def as_nobody(act):
    """Run `act(say, told)` as another user; yields what it says, line by line, and how to tell it.

    `act` must import nothing: that user may not be able to read the Python installation.
    """

    def run(there):
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        with there.makefile("rw", encoding="utf-8") as talk:

            def say(text):
                talk.write(f"{text}\n")
                talk.flush()

            try:
                act(say, talk.readline)
            except BaseException:
                say(traceback.format_exc().replace("\n", " | "))

    here, there = socket.socketpair()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            here.close()
            run(there)
        os._exit(0)
    there.close()
    here.settimeout(30.0)
    try:
        with here.makefile("rw", encoding="utf-8") as talk:
            yield talk
    finally:
        here.close()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
