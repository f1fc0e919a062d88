"""What `vision doctor` looks at: each check answers with findings and with advice for bad ones."""

from __future__ import annotations

import hashlib
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
from pipeline.errors import ModelError

PACKAGES = (
    "numpy",
    "opencv-python",
    "onnxruntime",
    "numba",
    "pyzmq",
    "msgspec",
    "pyyaml",
    "typer",
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
NEEDED_MB = 500


class Finding(NamedTuple):
    """One line of the report; `advice` is what to do, empty where nothing is wrong."""

    subject: str
    state: Literal["ok", "warn"]
    found: str
    advice: str = ""


def all_findings() -> list[Finding]:
    """Every check, in the order in which they are worth reading."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        cpu,
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
    """The findings of one check; a package that does not load is a finding as well."""
    try:
        return list(check())
    except ImportError as error:
        subject = check.__name__.replace("_", " ")
        return [Finding(subject, "warn", f"does not load: {error}", console.import_advice(error))]


def _finding(subject: str, found: str, *, good: bool = True, advice: str = "") -> Finding:
    return Finding(subject, "ok" if good else "warn", found, "" if good else advice)


def cpu() -> Iterator[Finding]:
    """The processor, what it has for int8 models, and the cores that this process may use."""
    from pipeline.inference.processor import has_int8_dot_products, processor
    from pipeline.inference.session import available_threads

    name, features = processor()
    yield _finding("processor", name)
    present = [feature for feature in CPU_FEATURES if feature in features]
    yield _finding(
        "processor features",
        ", ".join(present) or "none of the known ones",
        good=has_int8_dot_products(frozenset(present)),
        advice="no int8 dot product (VNNI, or dotprod on Arm): int8 models gain less over float",
    )
    usable, total = available_threads(), os.cpu_count() or 1
    yield _finding("cores", f"{usable} of {total} usable; Python {platform.python_version()}")


def memory() -> Iterator[Finding]:
    """Memory that can be had without swapping."""
    state = psutil.virtual_memory()
    free_mb = state.available // 2**20
    yield _finding(
        "memory",
        f"{free_mb} MB free of {state.total // 2**20} MB",
        good=free_mb >= NEEDED_MB,
        advice=f"a run takes about 300 MB; free at least {NEEDED_MB} MB",
    )


def packages() -> Iterator[Finding]:
    """Versions of what the pipeline stands on."""
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
    """What ONNX Runtime can run models on; the pipeline uses the CPU."""
    import onnxruntime as ort

    yield _finding("ONNX Runtime", f"{ort.__version__}: {', '.join(ort.get_available_providers())}")


def opencv_build() -> Iterator[Finding]:
    """What this OpenCV was built with: windows, FFmpeg, cameras, GStreamer."""
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
        "FFmpeg is in OpenCV" if ffmpeg else "no FFmpeg in OpenCV",
        good=ffmpeg,
        advice="pip install opencv-python, whose wheel brings FFmpeg",
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
    """The first word behind `name:` in OpenCV's description of its own build."""
    match = re.search(rf"^\s*{re.escape(name)}:[ \t]*(\S*)", text, re.MULTILINE)
    return match.group(1) if match else ""


def compiled_kernels() -> Iterator[Finding]:
    """Whether Numba's compiled kernels can be kept, and are."""
    from pipeline.inference import kernels

    folder = Path(kernels.decode_and_suppress.stats.cache_path or os.devnull)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    writable = folder != Path(os.devnull) and os.access(existing, os.W_OK)
    warm = kernels.are_compiled()
    yield _finding(
        "compiled kernels",
        f"{'present' if warm else 'not compiled yet, the first start takes about 10 s'}: {folder}",
        good=warm or writable,
        advice="every start compiles anew; set NUMBA_CACHE_DIR to a folder that can be written",
    )


def models() -> Iterator[Finding]:
    """Each model with its checksum, and whether it can be read."""
    from pipeline.cli.models import read_spec
    from pipeline.inference.locate import installed_models

    found = installed_models()
    if not found:
        yield _finding(
            "models",
            "none",
            good=False,
            advice="set VISION_MODELS to the folder of the models, or install the package again",
        )
    for name, path in sorted(found.items()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        try:
            read_spec(path)
            yield _finding(f"model {name}", f"sha256 {digest[:16]}..., {path}")
        except ModelError as error:
            yield _finding(f"model {name}", str(error), good=False, advice="replace the file")


def cameras() -> Iterator[Finding]:
    """The video devices of this machine, and whether they may and can be opened."""
    from pipeline.capture.camera import holders, list_cameras

    found = list_cameras()
    if not found:
        yield _finding("cameras", "none; files, streams and scene: work without")
    for path, name in found.items():
        users = holders(path)
        allowed = os.access(path, os.R_OK | os.W_OK)
        state = f"in use by {', '.join(users)}" if users else "free" if allowed else "not permitted"
        yield _finding(
            f"camera {path}",
            f"{name}, {state}",
            good=allowed and not users,
            advice="end what uses it, or add yourself to its group: sudo usermod -aG video $USER",
        )


def ros() -> Iterator[Finding]:
    """Which ROS 2 this shell has, and whether this Python can use it."""
    distro = os.environ.get("ROS_DISTRO")
    prefixes = [part for part in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if part]
    if not distro and not prefixes and not util.find_spec("rclpy"):
        yield _finding("ROS 2", "not in this shell; needed for the nodes only")
        return
    problem = _import_problem("rclpy")
    yield _finding(
        "ROS 2",
        f"{distro or 'no ROS_DISTRO'}, {len(prefixes)} prefixes, "
        f"rclpy {f'does not import: {problem}' if problem else 'imports'}",
        good=not problem,
        advice=f"use the Python that this ROS 2 was built for (this is {sys.executable}), "
        "and source its setup.bash",
    )


def _import_problem(module: str) -> str:
    """Why a module does not import, or an empty text; extension modules fail in many ways."""
    try:
        importlib.import_module(module)
    except (ImportError, OSError, AttributeError) as error:
        return " ".join(str(error).split())
    return ""
