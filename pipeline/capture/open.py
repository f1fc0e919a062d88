"""From what a user types to a source of frames."""

from __future__ import annotations

import difflib
import glob
import logging
import os
from pathlib import Path

from pipeline.capture import camera as cameras
from pipeline.capture import image_files, scene, video
from pipeline.capture.faults import Faulty, split_path, split_scene
from pipeline.capture.live import Request, open_live
from pipeline.errors import SourceError
from pipeline.images import is_image
from pipeline.source import Source, check_camera_name
from pipeline.types import Frame

log = logging.getLogger(__name__)

FORMS = (
    "a camera number or /dev/videoN, a video or picture file, a folder or glob of pictures, "
    "rtsp://..., http(s)://..., or scene:"
)


def open_source(
    text: str | int,
    *,
    width: int | None = None,
    height: int | None = None,
    fps: float | None = None,
    fourcc: str | None = None,
    open_timeout_s: float = 5.0,
    read_timeout_s: float = 5.0,
    camera: str | None = None,
    reconnect: bool | None = None,
    isolate: bool = False,
) -> Source[Frame]:
    """Open what `text` names: a camera, a video, a stream, pictures, or the built-in scene.

    - `width` and `height` (pixels) and `fps` are asked of cameras and of the scene, `fourcc` of
      cameras; elsewhere they have no meaning
    - cameras and streams must deliver within `open_timeout_s` seconds, and later a frame within
      `read_timeout_s`
    - `camera` replaces the name that the source would give its frames
    - `reconnect`: open what is live again when it breaks, until it is closed; False raises its
      `CaptureError` instead; by default cameras and streams come back and the scene does not
    - `isolate`: read cameras and streams in a child process from the start, so that not even a
      crash of the driver or decoder is felt; otherwise only after one has hung

    Raises `SourceError` where it cannot be opened and `ConfigError` where a setting makes no sense.
    """
    text = str(text)  # a camera's number may come as one
    if camera is not None:
        check_camera_name(camera)
    request = Request(
        text, width, height, fps, fourcc, open_timeout_s, read_timeout_s, camera=camera
    )
    is_camera, is_scene = _is_camera(text), text.startswith(scene.PREFIX)
    if not (is_camera or is_scene) and (width, height, fps, fourcc) != (None,) * 4:
        log.warning("%s: width, height, fps and fourcc are for cameras and ignored here", text)
    subject = _live_subject(text)
    if subject is None or (is_scene and not (reconnect or isolate)):
        return open_plain(request)
    return open_live(
        request,
        open_plain,
        subject=subject,
        reconnect=not is_scene if reconnect is None else reconnect,
        isolate=isolate,
        locate=cameras.lasting_path if is_camera else str,
        may_freeze=is_camera,
    )


def _live_subject(text: str) -> str | None:
    """What messages call a source that runs on by itself; None where `text` is none."""
    if text.startswith(scene.PREFIX):
        return text
    if _is_camera(text):
        return f"camera {cameras.device_path(text)}"
    scheme, separator, _ = text.partition("://")
    if not separator:
        return None
    if scheme.lower() not in video.SCHEMES:
        raise SourceError(f"source '{text}': unknown kind '{scheme}://'; expected {FORMS}")
    return video.check_address(text)


def open_plain(request: Request) -> Source[Frame]:
    """Open what is requested, as it is: nobody watches it, and it does not come back.

    Raises what `open_source` does, and `CaptureError`.
    """
    text, camera = request.text, request.camera
    if text.startswith(scene.PREFIX):
        own, faults = split_scene(text)
        source = scene.open_scene(
            own, width=request.width, height=request.height, fps=request.fps, camera=camera
        )
        return Faulty(source, faults) if faults else source
    if _is_camera(text):
        return cameras.open_camera(
            text,
            cameras.CameraSettings(request.width, request.height, request.fps, request.fourcc),
            open_timeout_s=request.open_timeout_s,
            read_timeout_s=request.read_timeout_s,
            camera=camera,
        )
    if "://" in text:
        return video.open_stream(
            text,
            open_timeout_s=request.open_timeout_s,
            read_timeout_s=request.read_timeout_s,
            camera=camera,
            skip_backlog=request.again,
        )
    path, faults = split_path(text)
    pictures = _open_path(path, camera)
    return Faulty(pictures, faults) if faults else pictures


def is_stored(text: str) -> bool:
    """Whether `text` can only name files: what is played, rather than asked for a rate."""
    return not (_is_camera(text) or text.startswith(scene.PREFIX) or "://" in text)


def _is_camera(text: str) -> bool:
    return (text.isascii() and text.isdigit()) or text.startswith("/dev/")


def _open_path(text: str, camera: str | None) -> Source[Frame]:
    if not text or "\0" in text:
        raise SourceError(f"source {text!r}: expected {FORMS}")
    path = Path(os.path.expanduser(text))
    if os.path.isdir(path):
        return image_files.open_folder(path, camera=camera)
    if os.path.exists(path):
        if is_image(path):
            return image_files.open_picture(path, camera=camera)
        return video.open_video(path, camera=camera)
    if glob.has_magic(text):
        return image_files.open_glob(str(path), camera=camera)
    raise SourceError(f"source '{text}': {_missing(path)}")


def _missing(path: Path) -> str:
    """Say what is missing, the folder or the file in it, and the nearest name that exists."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return f"no such file, and no folder {path.parent}; expected {FORMS}"
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.7)
    if near:
        return f"no such file; did you mean {path.parent / near[0]}?"
    return f"no such file; expected {FORMS}"
