"""Makes a Python for Arm (aarch64) that runs on x86-64, for `make test-arm`.

    python tests/arm/environment.py FOLDER

FOLDER/bin/python then is Debian unstable's Python for Arm under QEMU's user-mode emulation, with
the packages of this project as wheels for Arm. Only FOLDER is written, and no root is needed: apt
resolves and downloads Debian's packages with the package lists in FOLDER, and they are unpacked
there. apt and pip use their own configuration, so mirrors, proxies and package indexes are those
of this machine. Exits with 1 and the reason if something cannot be had.

Debian unstable, because QEMU 7.2 of Debian 12 crashes in ONNX Runtime.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PACKAGES = ("python3", "libgl1", "libglib2.0-0t64")  # Python, and what OpenCV loads
EMULATOR = "qemu-user"
GLIBC = range(17, 44)  # the minor versions that a wheel may ask for
EXTRAS = ("test",)


class Unavailable(Exception):  # noqa: N818 - the reason why there are no tests on Arm here
    """Something that the environment needs cannot be had."""


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/arm/environment.py FOLDER")
    folder = Path(sys.argv[1]).resolve()
    try:
        check_machine()
        make(folder)
    except Unavailable as error:
        sys.exit(f"tests on Arm cannot run: {error}")
    print(folder / "bin/python")  # noqa: T201 - the answer


def check_machine() -> None:
    """Raises `Unavailable` if this machine cannot have the environment."""
    machine = f"{platform.system()} {platform.machine()}"
    if machine == "Linux aarch64":
        raise Unavailable("this machine is one; run `make test`")
    if machine != "Linux x86_64":
        raise Unavailable(f"they need Linux on x86-64, and this is {machine}")
    missing = [tool for tool in ("apt-get", "dpkg-deb", "tar") if shutil.which(tool) is None]
    if missing:
        raise Unavailable(f"{', '.join(missing)} not found; they need Debian's package tools")
    if not KEYRING.is_file():
        raise Unavailable(f"no {KEYRING}; install the package debian-archive-keyring")


def make(folder: Path) -> None:
    """Make the environment, or bring it up to date if it was made of other packages."""
    wanted = {"debian": PACKAGES, "python": requirements(), "script": _checksum(Path(__file__))}
    stamp = folder / "complete.json"
    text = json.dumps(wanted, indent=1)
    if stamp.is_file() and stamp.read_text() == text:
        return
    stamp.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    _say(f"making an environment for Arm in {folder}; downloads about 300 MB")
    apt = Apt(folder / "apt")
    apt.update()
    emulator = unpack_emulator(apt, folder)
    root = unpack_debian(apt, folder)
    install_wheels(folder, write_python(folder, emulator, root))
    shutil.rmtree(apt.folder)
    stamp.write_text(text)


class Apt:
    """apt with package lists, cache and an empty list of installed packages in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for part in ("lists/partial", "archives/partial"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        source = f"deb [signed-by={KEYRING}] {repository()} unstable main\n"
        (folder / "sources.list").write_text(source)
        config = folder / "apt.conf"
        config.write_text(
            f'Dir::State "{folder}";\n'
            f'Dir::State::status "{folder}/status";\n'
            f'Dir::Cache "{folder}";\n'
            f'Dir::Etc::sourcelist "{folder}/sources.list";\n'
            'Dir::Etc::sourceparts "-";\n'
            'APT::Architecture "arm64";\n'
            'APT::Architectures { "arm64"; "amd64"; };\n'
            'APT::Install-Recommends "false";\n'
            'APT::Sandbox::User "";\n'
            'Acquire::Languages "none";\n'
            'Debug::NoLocking "true";\n'
        )
        self._environment = {**os.environ, "APT_CONFIG": str(config)}

    def update(self) -> None:
        self._run("update", "--error-on=any")

    def download(self, *packages: str) -> list[Path]:
        """The files of packages for Arm and of all that they depend on."""
        self._run("install", "--yes", "--download-only", *packages)
        return sorted((self.folder / "archives").glob("*.deb"))

    def download_one(self, package: str) -> Path:
        """The file of one package of any architecture, without what it depends on."""
        self._run("download", package)
        name = package.partition(":")[0]
        return next(self.folder.glob(f"{name}_*.deb"))

    def _run(self, *arguments: str) -> None:
        run("apt-get", "-qq", *arguments, environment=self._environment, folder=self.folder)


def repository() -> str:
    """The address of Debian's packages in apt's own configuration."""
    form = "$(ORIGIN)|$(LABEL)|$(REPO_URI)"
    known = run("apt-get", "indextargets", "--format", form, "Created-By: Packages")
    for line in known.splitlines():
        origin, label, address = line.split("|", 2)
        if (origin, label) == ("Debian", "Debian"):
            return address
    raise Unavailable("apt is not configured for Debian's packages, or needs `apt-get update`")


def unpack_emulator(apt: Apt, folder: Path) -> Path:
    """QEMU for Arm programs, one file that is linked statically."""
    package = apt.download_one(f"{EMULATOR}:amd64")
    member = "./usr/bin/qemu-aarch64"
    with subprocess.Popen(("dpkg-deb", "--fsys-tarfile", package), stdout=subprocess.PIPE) as read:
        extract = ("tar", "-x", "-C", folder, "--strip-components=3", member)
        done = subprocess.run(extract, stdin=read.stdout, check=False)
    if done.returncode or read.returncode:
        raise Unavailable(f"{package.name}: {member} cannot be unpacked")
    return folder / "qemu-aarch64"


def unpack_debian(apt: Apt, folder: Path) -> Path:
    """A folder with Debian's packages for Arm; QEMU looks there for files before the real root."""
    root = folder / "root"
    shutil.rmtree(root, ignore_errors=True)
    for part in ("bin", "lib"):
        (root / "usr" / part).mkdir(parents=True)
        (root / part).symlink_to(f"usr/{part}")
    for package in apt.download(*PACKAGES):
        run("dpkg-deb", "--extract", str(package), str(root))
    return root


def write_python(folder: Path, emulator: Path, root: Path) -> str:
    """Write FOLDER/bin/python, which also starts processes of its own; returns its version.

    It is a shell script, so that the kernel needs no handler for programs for Arm, and a virtual
    environment, so that Python finds its packages.
    """
    program = (root / "usr/bin/python3").resolve()
    script = folder / "bin/python"
    script.parent.mkdir(exist_ok=True)
    script.write_text(f'#!/bin/sh\nexec "{emulator}" -L "{root}" -0 "$0" "{program}" "$@"\n')
    script.chmod(0o755)
    (folder / "pyvenv.cfg").write_text(f"home = {program.parent}\n")
    found = run(str(script), "-c", "import platform; print(platform.machine())")
    if found.strip() != "aarch64":
        raise Unavailable(f"{script} does not run: expected aarch64, but got {found!r}")
    return program.name.removeprefix("python")


def install_wheels(folder: Path, version: str) -> None:
    """Install the wheels for Arm; pip of this Python chooses them."""
    target = folder / f"lib/python{version}/site-packages"
    shutil.rmtree(target, ignore_errors=True)
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in reversed(GLIBC)]
    run(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"),
        *("--target", str(target), "--only-binary=:all:", "--implementation=cp"),
        *(f"--python-version={version}", f"--abi=cp{version.replace('.', '')}"),
        *(*platforms, "--platform=manylinux2014_aarch64", *requirements()),
    )


def requirements() -> list[str]:
    """What this project and its tests need, as in setup.py."""
    found = []
    for line in metadata.requires("vision") or ():
        requirement, _, marker = line.partition(";")
        if "extra" not in marker:
            found.append(line)
        elif any(f'extra == "{extra}"' in marker for extra in EXTRAS):
            found.append(requirement)
    return found


def run(
    *command: str, environment: dict[str, str] | None = None, folder: Path | None = None
) -> str:
    """The output of a command; raises `Unavailable` with its last line if it fails."""
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        errors = [line for line in lines if line.startswith(("E:", "ERROR:"))] or lines
        raise Unavailable(f"{Path(command[0]).name} failed ({done.returncode}): {errors[-1]}")
    return done.stdout


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - it takes minutes


if __name__ == "__main__":
    main()
