"""The documents are true: their links lead somewhere, and the README's example runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "models").rglob("*.md")),
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document):
    targets = re.findall(r"\]\(([^)#\s]+)", document.read_text())
    missing = [
        target
        for target in targets
        if "://" not in target and not (document.parent / target).exists()
    ]
    assert missing == []


def test_the_example_in_the_readme_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        assert '"0"' in block
        # Not every machine has a camera; the scene stands in for it.
        exec(block.replace('"0"', '"scene:?fps=0"'), {})  # noqa: S102 - it is our own
    assert " cat " in capsys.readouterr().out


def test_make_knows_what_the_documents_tell_people_to_type():
    text = "".join(path.read_text() for path in DOCUMENTS)
    asked = set(re.findall(r"^    make ([a-z]+)\b", text, re.MULTILINE))
    rules = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= asked <= rules


def test_every_option_that_the_documents_name_exists():
    """Of whichever command; a name that no command has is out of date."""
    named = set()
    for document in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        lines = re.findall(r"^ +(vision .*)|`(vision .*?)`", document.read_text(), re.MULTILINE)
        named |= {word for line in lines for word in re.findall(r"--[a-z-]+", " ".join(line))}
    sources = "".join(path.read_text() for path in (ROOT / "pipeline" / "cli").glob("*.py"))
    assert "--jsonl" in named
    assert {option for option in named if f"{option}" not in sources} == set()
