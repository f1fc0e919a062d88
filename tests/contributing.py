"""Reads the examples of CONTRIBUTING.md and adds them to a copy of the package.

A Python block begins with the file that it is for: `# pipeline/capture/noise.py` makes a new file,
`# pipeline/sources.py, in KINDS` adds lines at the end of a table, `..., new import` adds an
import, and `..., changed lines` replaces the imports and values that they extend.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
BLOCK = re.compile(
    r"^```python\n# (\S+\.py)(?:, (?:in )?([\w ]+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE
)
USAGE = re.compile(r"^```python\n(?!# \S+\.py)(.*?)^```$", re.DOTALL | re.MULTILINE)
COPIED = ("pipeline", "nodes", "launch")
LINKED = ("models", "config")
CACHES = shutil.ignore_patterns("__pycache__")


def add_lines(text: str, table: str, lines: str) -> str:
    """`text` with `lines` at the end of the tuple, list, dict, function or class called `table`."""
    start = re.search(rf'^( *)(?:class |def )?"?{table}"?\b.*[(\[{{:]$', text, re.MULTILINE)
    assert start, f"there is no {table}"
    end = re.compile(rf"^(?! {{{len(start[1]) + 1}}})(?=.)", re.MULTILINE).search(
        text, start.end() + 1
    )
    assert end, f"{table} does not end"
    at = len(text[: end.start()].rstrip()) + 1
    return text[:at] + lines + text[at:]


def change_lines(text: str, lines: str) -> str:
    """`text` with each of `lines` in the place of the import or value that it extends."""
    old = text.splitlines()
    for line in filter(None, lines.splitlines()):
        begin = re.match(r"from \S+ import |\w+ = ", line)
        assert begin, f"neither an import nor a value: {line}"
        extended = [
            number
            for number, one in enumerate(old)
            if one.startswith(begin[0]) and words(one) <= words(line)
        ]
        assert len(extended) == 1, f"{len(extended)} lines could become: {line}"
        old[extended[0]] = line
    return "\n".join(old) + "\n"


def words(line: str) -> set[str]:
    return set(re.findall(r"\w+", line))


def apply(text: str, where: str, code: str) -> str:
    """`text` with the change that a block of CONTRIBUTING.md describes."""
    if where == "new import":
        return re.sub(r"^(?=from (nodes|pipeline)\b)", code, text, count=1, flags=re.MULTILINE)
    return change_lines(text, code) if where == "changed lines" else add_lines(text, where, code)


def copy_with_examples(tree: Path) -> Path:
    """Copy the package to `tree`, an empty folder, with all examples in it."""
    for folder in COPIED:
        shutil.copytree(ROOT / folder, tree / folder, ignore=CACHES)
    for folder in LINKED:
        (tree / folder).symlink_to(ROOT / folder)
    examples = BLOCK.findall(CONTRIBUTING)
    assert examples
    for name, where, code in examples:
        file = tree / name
        assert file.exists() == bool(where), f"{name} is a new file exactly if no place is named"
        file.write_text(apply(file.read_text(), where, code) if where else code)
    return tree


def usage_of(text: str) -> str:
    """The block of CONTRIBUTING.md that contains `text` and says how to use an example."""
    (code,) = [code for code in USAGE.findall(CONTRIBUTING) if text in code]
    return code
