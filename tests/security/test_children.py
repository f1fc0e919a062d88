"""Child processes run nothing from the current folder, which may come from elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pipeline.process.children import python_command

PROGRAMS = {
    "window": "from pipeline.output.window import check_display\ncheck_display()",
    "isolate": (
        "from pipeline.sources import open_source\n"
        "with open_source('scene:?frames=2&size=64x48', isolate=True) as source: source.read()"
    ),
    "command": (
        "import subprocess\nfrom pipeline.process.children import python_command\n"
        "subprocess.run(python_command('import json, numpy, cv2'), check=True)"
    ),
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_modules_in_the_current_folder_are_not_imported(tmp_path, program):
    for name in ("cv2", "json", "numpy", "pipeline"):
        (tmp_path / f"{name}.py").write_text("open('imported', 'w').close()")
    outside = f"import os, sys\nos.chdir({str(tmp_path)!r})\n{program}"
    # Started elsewhere, so that the program itself has its own modules.
    environment = {**os.environ, "DISPLAY": ":4711"}
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[0:1] = []\n{outside}"],
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert not (tmp_path / "imported").exists()


def test_a_program_gets_its_arguments_and_the_path_of_this_process():
    done = subprocess.run(
        python_command("print(sys.argv[1:], sys.path)", "a b", 7),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == f"['a b', '7'] {sys.path}"
