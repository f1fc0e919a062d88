"""Links, commands, options and Python examples of the documents are valid."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest

from pipeline.cli.main import app
from pipeline.settings import load_config
from pipeline.sources import open_source

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "models").rglob("*.md")),
]
PLACES = {path.name for path in (*ROOT.iterdir(), *(ROOT / "tests").iterdir()) if path.is_dir()}
VARIABLE = re.compile(r"[A-Z_]+=.*")
MANUALS = [path for path in DOCUMENTS if path.name != "CONTRIBUTING.md"]  # has a test of its own
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


def blocks(document: Path, language: str) -> list[str]:
    """The fenced code blocks of one language."""
    return [code for name, code in FENCE.findall(document.read_text()) if name == language]


def shell_lines(document: Path) -> list[list[str]]:
    """The words of each command in the document's shell blocks, without comments and pipes."""
    code = "\n".join(blocks(document, "bash")).replace("\\\n", " ")
    lines = []
    for line in code.splitlines():
        words = [word for word in shlex.split(line, comments=True) if word]
        while words and VARIABLE.fullmatch(words[0]):
            del words[0]
        end = min(words.index(sign) if sign in words else len(words) for sign in ("|", ">", ">>"))
        lines += [words[:end]] if words else []
    return lines


def inline_commands(document: Path) -> list[list[str]]:
    """The words of each `vision ...` in running text."""
    text = FENCE.sub("", document.read_text())
    return [line.split() for line in re.findall(r"`(vision [^`]+)`", text)]


def anchors(document: Path) -> set[str]:
    """The fragments that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


def command_of(words: list[str]) -> tuple[click.Context, list[str]]:
    """The subcommand that `vision WORDS` runs, and the arguments that are left for it."""
    context = click.Context(app, info_name="vision")
    rest = words[1:]
    while hasattr(context.command, "commands") and rest and not rest[0].startswith("-"):
        if rest[0] == "COMMAND":
            return context, []
        command = context.command.get_command(context, rest[0])
        assert command is not None, f"no such command: {' '.join(words)}"
        context, rest = click.Context(command, parent=context, info_name=rest[0]), rest[1:]
    return context, rest


@each_document
def test_relative_links_exist(document):
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text())
    missing = []
    for link in (link for link in links if "://" not in link):
        path, _, fragment = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (fragment and fragment not in anchors(target)):
            missing.append(link)
    assert missing == []


@each_document
def test_files_in_running_text_exist(document):
    names = re.findall(r"`((?:[\w.]+/)+\w+\.py)`", FENCE.sub("", document.read_text()))
    roots = (ROOT, ROOT / "tests")
    files = [name for name in names if name.partition("/")[0] in PLACES]
    assert [name for name in files if not any((root / name).exists() for root in roots)] == []


def test_tree_in_contributing_is_complete():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    tree = FENCE.search(text, text.index("## The house"))[2]
    named = re.findall(r"^( *)(\S+(?: \S+)*)  ", tree, re.MULTILINE)
    top = {name for indent, names in named if not indent for name in names.split()}
    inner = {name for indent, names in named if indent for name in names.split()}
    assert [name for name in top if not (ROOT / name).is_dir()] == []
    modules = {path.name for path in (ROOT / "pipeline").glob("*.py")} - {"__init__.py"}
    folders = {f"{path.parent.name}/" for path in (ROOT / "pipeline").glob("*/__init__.py")}
    assert inner == modules | folders


@each_document
def test_vision_commands_parse(document):
    commands = [words for words in shell_lines(document) if words[0].endswith("vision")]
    for words in commands:
        context, arguments = command_of(words)
        context.command.make_context(context.info_name, arguments, parent=context.parent)


def test_every_command_is_documented():
    text = (ROOT / "docs" / "command-line.md").read_text()
    names = app.list_commands(click.Context(app))
    assert [name for name in names if f"`vision {name}" not in text] == []


@each_document
def test_options_in_running_text_exist(document):
    for words in inline_commands(document):
        context, arguments = command_of(words)
        known = {name for p in context.command.params for name in (*p.opts, *p.secondary_opts)}
        used = {word for word in arguments if word.startswith("-") and len(word) > 1}
        assert used <= known | {"--help"}, " ".join(words)


def test_settings_file_in_documents_is_valid(tmp_path):
    examples = blocks(ROOT / "docs" / "command-line.md", "yaml")
    assert examples
    for number, text in enumerate(examples):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text)
        assert load_config(file)


def test_examples_in_readme_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = blocks(ROOT / "README.md", "python")
    assert code
    for block in code:
        assert '"0"' in block
        exec(block.replace('"0"', '"scene:?fps=0"'), {})  # noqa: S102 - needs no camera
    assert " cat " in capsys.readouterr().out
    assert (tmp_path / "out.jsonl").read_text().count("\n") == 100
    with open_source(tmp_path / "out.mp4") as recording:
        assert recording.read() is not None


@pytest.mark.parametrize("document", MANUALS, ids=lambda path: path.name)
def test_python_examples_compile_and_import(document):
    for block in blocks(document, "python"):
        if block.startswith(" "):  # continues the block before it
            continue
        tree = ast.parse(block)
        imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), str(document), "exec"), {})  # noqa: S102 - ours


def test_make_targets_exist():
    lines = [words for document in DOCUMENTS for words in shell_lines(document)]
    inline = re.findall(r"`make ([a-z-]+)`", "".join(path.read_text() for path in DOCUMENTS))
    used = {words[1] for words in lines if words[0] == "make" and "=" not in words[1]}
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= used
    assert used | set(inline) <= rules


@each_document
def test_python_modules_exist(document):
    modules = re.findall(r"python -m ([\w.]+)", document.read_text())
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


def test_launch_arguments_exist():
    launch = (ROOT / "launch" / "detect.launch.py").read_text()
    lines = [words for document in DOCUMENTS for words in shell_lines(document)]
    used = {
        word.partition(":=")[0]
        for words in lines
        if words[:2] == ["ros2", "launch"]
        for word in words
        if ":=" in word
    }
    assert "source" in used
    assert {name for name in used if f'"{name}"' not in launch} == set()


def test_packages_for_each_ros_distribution_are_those_of_the_installation():
    setup = (ROOT / "setup.py").read_text()
    required = setup[setup.index("install_requires") : setup.index("extras_require")]
    names = {*re.findall(r'^ +"([\w-]+)', required, re.MULTILINE)} - {"tomli"}
    lists = [
        words for words in shell_lines(ROOT / "docs/ros2.md") if words[:2] == ["pip", "install"]
    ]
    assert len(lists) >= 2
    for words in lists:
        installed = {re.split("[<>=,]", word)[0] for word in words[2:]} - {"tomli"}
        assert installed == names
