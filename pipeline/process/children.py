"""Starts Python programs in child processes that import what this process would import."""

from __future__ import annotations

import sys

_SAME_PATH = "import sys; count = int(sys.argv[1]); "
_SAME_PATH += "sys.path[:] = sys.argv[2 : 2 + count]; del sys.argv[1 : 2 + count]; "


def python_command(program: str, *arguments: object) -> list[str]:
    """The command that runs `program`, a text of Python, with `arguments` in `sys.argv[1:]`.

    `python -c` and `python -m` look for modules in the current folder first, which may be a folder
    from elsewhere. This looks only where this process does.
    """
    path = [str(len(sys.path)), *sys.path]
    return [sys.executable, "-c", _SAME_PATH + program, *path, *map(str, arguments)]
