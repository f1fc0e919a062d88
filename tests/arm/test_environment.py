"""What the environment for tests on Arm says if it cannot be made."""

from __future__ import annotations

import pytest

from . import environment


@pytest.fixture
def on(monkeypatch):
    """Pretends another machine."""

    def pretend(system, machine):
        monkeypatch.setattr("platform.system", lambda: system)
        monkeypatch.setattr("platform.machine", lambda: machine)

    return pretend


@pytest.mark.parametrize(
    ("system", "machine", "reason"),
    [
        ("Linux", "aarch64", "run `make test`"),
        ("Darwin", "arm64", "need Linux on x86-64, and this is Darwin arm64"),
    ],
)
def test_other_machines_are_told_why(on, system, machine, reason):
    on(system, machine)
    with pytest.raises(environment.Unavailable, match=reason):
        environment.check_machine()


def test_missing_tools_are_named(on, monkeypatch, tmp_path):
    on("Linux", "x86_64")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(environment.Unavailable, match="apt-get, dpkg-deb, tar not found"):
        environment.check_machine()


def test_a_missing_keyring_is_named(on, monkeypatch, tmp_path):
    on("Linux", "x86_64")
    monkeypatch.setattr("shutil.which", lambda tool: tool)
    monkeypatch.setattr(environment, "KEYRING", tmp_path / "keyring.gpg")
    with pytest.raises(environment.Unavailable, match="install the package debian-archive-keyring"):
        environment.check_machine()


def test_a_failed_download_says_which_package(monkeypatch):
    program = "import sys; sys.exit('ERROR: No matching distribution found for numba\\nhint')"
    with pytest.raises(environment.Unavailable, match=r"found for numba$"):
        environment.run(environment.sys.executable, "-c", program)


def test_no_debian_packages_are_a_reason(monkeypatch):
    monkeypatch.setattr(environment, "run", lambda *_: "Ubuntu|Ubuntu|http://localhost/ubuntu\n")
    with pytest.raises(environment.Unavailable, match="not configured for Debian's packages"):
        environment.repository()


def test_the_wheels_are_those_of_the_package_and_its_tests():
    wanted = environment.requirements()
    assert {"onnxruntime>=1.17", "pytest>=8"} <= set(wanted)
    assert not any("ros-" in name or "extra" in name for name in wanted)
