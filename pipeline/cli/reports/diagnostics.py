"""The checks of `vision doctor`; each gives findings, with advice if there is a problem."""

from __future__ import annotations

import importlib
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from importlib import metadata, util
from pathlib import Path
from typing import Literal, NamedTuple

import psutil

from pipeline.cli import console
from pipeline.errors import ModelError, one_line

PACKAGES = (
    "numpy",
    "opencv-python",
    "onnxruntime",
    "numba",
    "pyzmq",
    "msgspec",
    "pyyaml",
    "click",
    "rich",
    "platformdirs",
    "psutil",
)
OPENCV_WHEELS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
CPU_FEATURES = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "asimddp", "i8mm")
ARM = ("aarch64", "arm64")
NEEDED_MB = 500


class Finding(NamedTuple):
    """One line of the report; `advice` says what to do, and is empty if nothing is wrong."""

    subject: str
    state: Literal["ok", "warn"]
    found: str
    advice: str = ""


def all_findings() -> list[Finding]:
    """The findings of all checks, the most useful first."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        cpu,
        arm,
        memory,
        packages,
        onnxruntime_providers,
        opencv_build,
        compiled_kernels,
        models,
        cameras,
        ros,
    )
    return [finding for check in checks for finding in _outcome(check)]


def _outcome(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """The findings of one check; a package that cannot be imported is a finding too."""
    try:
        return list(check())
    except ImportError as error:
        subject = check.__name__.replace("_", " ")
        found = f"cannot be imported: {error}"
        return [Finding(subject, "warn", found, console.import_advice(error))]


def _finding(subject: str, found: str, *, good: bool = True, advice: str = "") -> Finding:
    return Finding(subject, "ok" if good else "warn", found, "" if good else advice)


def cpu() -> Iterator[Finding]:
    """The processor, its instructions for int8 models, and the cores available to this process."""
    from pipeline.inference.processor import available_threads, has_int8_dot_products, processor

    name, features = processor()
    yield _finding("processor", name)
    present = [feature for feature in CPU_FEATURES if feature in features]
    yield _finding(
        "processor features",
        ", ".join(present) or "none of those that help",
        good=has_int8_dot_products(frozenset(present)),
        advice="no int8 dot product (VNNI, or dotprod on Arm): int8 models are less of a gain",
    )
    usable, total = available_threads(), os.cpu_count() or 1
    yield _finding("cores", f"{usable} of {total} usable; Python {platform.python_version()}")


def arm() -> Iterator[Finding]:
    """On Arm, how this program was tested there."""
    if platform.machine() in ARM:
        yield _finding(
            "Arm",
            "models, kernels, messages and shared memory give the same as on x86-64; "
            "checked under emulation, speed not measured",
        )


def memory() -> Iterator[Finding]:
    """Memory available without swapping."""
    state = psutil.virtual_memory()
    free_mb = state.available // 2**20
    yield _finding(
        "memory",
        f"{free_mb} MB free of {state.total // 2**20} MB",
        good=free_mb >= NEEDED_MB,
        advice=f"a run needs about 250 MB; free at least {NEEDED_MB} MB",
    )


def packages() -> Iterator[Finding]:
    """Versions of the required packages."""
    missing, versions = [], []
    for name in PACKAGES:
        wheels = OPENCV_WHEELS if name == "opencv-python" else (name,)
        installed = [(wheel, version) for wheel in wheels if (version := _version(wheel))]
        versions += [f"{wheel} {version}" for wheel, version in installed]
        if not installed and not (name == "opencv-python" and util.find_spec("cv2")):
            missing.append(name)
    yield _finding(
        "packages",
        ", ".join(versions) + (f"; missing: {', '.join(missing)}" if missing else ""),
        good=not missing,
        advice=f"pip install {' '.join(missing)}",
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def onnxruntime_providers() -> Iterator[Finding]:
    """Version and execution providers of ONNX Runtime; the pipeline uses the CPU."""
    import onnxruntime as ort

    yield _finding("ONNX Runtime", f"{ort.__version__}: {', '.join(ort.get_available_providers())}")


def opencv_build() -> Iterator[Finding]:
    """Features of this OpenCV build: windows, FFmpeg, cameras, GStreamer."""
    import cv2

    text = cv2.getBuildInformation()
    gui = _build_line(text, "GUI")
    ffmpeg = _build_line(text, "FFMPEG") == "YES"
    yield _finding(
        "OpenCV",
        f"{cv2.__version__}: GStreamer {_build_line(text, 'GStreamer')}, "
        f"V4L2 {_build_line(text, 'v4l/v4l2')}",
    )
    yield _finding(
        "video files and streams",
        "OpenCV has FFmpeg" if ffmpeg else "OpenCV lacks FFmpeg",
        good=ffmpeg,
        advice="pip install opencv-python; its wheel includes FFmpeg",
    )
    yield _display(gui)


def _display(gui: str) -> Finding:
    has_display = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if gui in ("", "NONE", "NO"):
        return _finding(
            "window",
            "this OpenCV has no windows",
            good=False,
            advice="for --show: pip uninstall opencv-python-headless, pip install opencv-python",
        )
    return _finding(
        "window",
        f"{gui}, display {'found' if has_display else 'not found'}",
        good=has_display,
        advice="--show needs a display (DISPLAY or WAYLAND_DISPLAY); --record works without one",
    )


def _build_line(text: str, name: str) -> str:
    """The first word after `name:` in OpenCV's build information."""
    match = re.search(rf"^\s*{re.escape(name)}:[ \t]*(\S*)", text, re.MULTILINE)
    return match.group(1) if match else ""


def compiled_kernels() -> Iterator[Finding]:
    """Whether Numba's compiled kernels are cached, and whether they can be."""
    from pipeline.inference.heads.darknet import decode_darknet

    folder = decode_darknet.folder or Path(os.devnull)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    writable = folder != Path(os.devnull) and os.access(existing, os.W_OK)
    warm = decode_darknet.is_compiled
    yield _finding(
        "compiled kernels",
        f"{'cached' if warm else 'not compiled yet; the first start takes about 10 s'}: {folder}",
        good=warm or writable,
        advice="every start compiles again; set NUMBA_CACHE_DIR to a writable folder",
    )


def models() -> Iterator[Finding]:
    """The checksum of each model, and whether it can be opened."""
    from pipeline.inference.registry import file_sha256, installed_models
    from pipeline.inference.session import open_model

    found = installed_models()
    if not found:
        yield _finding(
            "models",
            "none",
            good=False,
            advice="set VISION_MODELS to the folder of the models, or reinstall the package",
        )
    for name, path in sorted(found.items()):
        try:
            open_model(path)
            yield _finding(f"model {name}", f"sha256 {file_sha256(path)[:16]}..., {path}")
        except ModelError as error:  # noqa: PERF203 - the others are listed
            yield _finding(f"model {name}", str(error), good=False, advice="replace the file")


def cameras() -> Iterator[Finding]:
    """The video devices of this machine, and whether they can be opened."""
    from pipeline.capture.camera import holders, list_cameras

    found = list_cameras()
    if not found:
        yield _finding("cameras", "none; files, streams and scene: need no camera")
    for path, name in found.items():
        users = holders(path)
        allowed = os.access(path, os.R_OK | os.W_OK)
        state = (
            f"in use by {', '.join(users)}" if users else "free" if allowed else "permission denied"
        )
        yield _finding(
            f"camera {path}",
            f"{name}, {state}",
            good=allowed and not users,
            advice="close what uses it, or join its group: sudo usermod -aG video $USER",
        )


def ros() -> Iterator[Finding]:
    """The ROS 2 of this shell, and whether this Python can import it."""
    distro = os.environ.get("ROS_DISTRO")
    prefixes = [part for part in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if part]
    if not distro and not prefixes and not util.find_spec("rclpy"):
        yield _finding("ROS 2", "not set up in this shell; only the nodes need it")
        return
    problem = _import_problem("rclpy")
    yield _finding(
        "ROS 2",
        f"{distro or 'no ROS_DISTRO'}, {len(prefixes)} prefixes, "
        f"rclpy {f'cannot be imported: {problem}' if problem else 'can be imported'}",
        good=not problem,
        advice=f"use the Python that this ROS 2 was built for (this is {sys.executable}), "
        "and source its setup.bash",
    )


def _import_problem(module: str) -> str:
    """Why a module cannot be imported, or an empty text."""
    try:
        importlib.import_module(module)
    except (ImportError, OSError, AttributeError) as error:
        return one_line(error)
    return ""
