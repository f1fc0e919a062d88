"""From what a user types to a source of frames."""

from __future__ import annotations

import difflib
import glob
import logging
import os
from pathlib import Path

from pipeline.capture import camera as cameras
from pipeline.capture import images, picture, scene, video
from pipeline.capture.source import Source, check_camera_name
from pipeline.errors import SourceError

log = logging.getLogger(__name__)

FORMS = (
    "a camera number or /dev/videoN, a video or picture file, a folder or glob of pictures, "
    "rtsp://..., http(s)://..., or scene:"
)


def open_source(
    text: str,
    *,
    width: int | None = None,
    height: int | None = None,
    fps: float | None = None,
    fourcc: str | None = None,
    open_timeout_s: float = 5.0,
    camera: str | None = None,
) -> Source:
    """Open what `text` names: a camera, a video, a stream, pictures, or the built-in scene.

    `width` and `height` (pixels) and `fps` are asked of cameras and of the scene, `fourcc` of
    cameras; elsewhere they have no meaning. Cameras and streams must deliver within
    `open_timeout_s` seconds. `camera` replaces the name that the source would give its frames.

    Raises `SourceError` where it cannot be opened and `ConfigError` where a setting makes no sense.
    """
    if camera is not None:
        check_camera_name(camera)
    if text.startswith(scene.PREFIX):
        return scene.open_scene(text, width=width, height=height, fps=fps, camera=camera)
    if (text.isascii() and text.isdigit()) or text.startswith("/dev/"):
        settings = cameras.CameraSettings(width, height, fps, fourcc)
        return cameras.open_camera(text, settings, open_timeout_s=open_timeout_s, camera=camera)
    if (width, height, fps, fourcc) != (None,) * 4:
        log.warning("%s: width, height, fps and fourcc are for cameras and ignored here", text)
    scheme, separator, _ = text.partition("://")
    if separator:
        if scheme.lower() not in video.SCHEMES:
            raise SourceError(f"source '{text}': unknown kind '{scheme}://'; expected {FORMS}")
        return video.open_stream(text, open_timeout_s=open_timeout_s, camera=camera)
    return _open_path(text, camera)


def _open_path(text: str, camera: str | None) -> Source:
    if not text or "\0" in text:
        raise SourceError(f"source {text!r}: expected {FORMS}")
    path = Path(os.path.expanduser(text))
    if os.path.isdir(path):
        return images.open_folder(path, camera=camera)
    if os.path.exists(path):
        if path.suffix.lower() in picture.SUFFIXES:
            return images.open_picture(path, camera=camera)
        return video.open_video(path, camera=camera)
    if glob.has_magic(text):
        return images.open_glob(str(path), camera=camera)
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
