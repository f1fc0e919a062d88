"""Validated settings: what the command line's options and a YAML file can say, in one place.

Every setting has the name of its option (`--nms-kind` is `nms_kind`, or `nms-kind` in a file).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec

from pipeline.errors import ConfigError

NO_CLASSIFIER = "none"

# The description is what an error says was expected.
Text = Annotated[str, msgspec.Meta(min_length=1, description="a text")]
Source = Annotated[str | int, msgspec.Meta(description="a camera number, a file or an address")]
Switch = Annotated[bool, msgspec.Meta(description="true or false")]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1, description="a number from 0 to 1")]
Seconds = Annotated[
    float, msgspec.Meta(gt=0, le=1e9, description="a number of seconds greater than 0")
]
Threads = Annotated[int, msgspec.Meta(ge=1, le=1024, description="a whole number from 1 to 1024")]
Count = Annotated[int, msgspec.Meta(ge=1, le=2**62, description="a whole number of at least 1")]
Top = Annotated[int, msgspec.Meta(ge=1, le=1000, description="a whole number from 1 to 1000")]
Pixels = Annotated[
    int, msgspec.Meta(ge=1, le=32768, description="a number of pixels from 1 to 32768")
]
Rate = Annotated[
    float, msgspec.Meta(gt=0, le=1000, description="frames per second, from above 0 to 1000")
]
FourCC = Annotated[
    str, msgspec.Meta(pattern="^[ -~]{4}$", description="four characters such as MJPG")
]
NmsKind = Annotated[Literal["iou", "darknet"], msgspec.Meta(description="iou or darknet")]
Texts = Annotated[tuple[str, ...], msgspec.Meta(description="a list of texts")]
Payload = Annotated[
    Literal["auto", "raw", "jpeg", "shm"], msgspec.Meta(description="auto, raw, jpeg or shm")
]
Quality = Annotated[int, msgspec.Meta(ge=1, le=100, description="a whole number from 1 to 100")]
MebiBytes = Annotated[int, msgspec.Meta(ge=1, le=4096, description="a whole number from 1 to 4096")]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a run can be told, with its defaults; make one with `settings_from`.

    Sizes are pixels, `duration` and the time-outs seconds, `fps` frames per second. None leaves
    the choice to the source (`every_frame`, `reconnect`, `width`, `height`, `fps`, `fourcc`), to
    the machine (`threads`: all cores), or turns the thing off. `quality` is that of JPEG,
    `max_frame_mb` the largest picture in MiB that is taken from another process.
    """

    source: Source | None = None
    detector: Text = "yolov4-tiny-int8"
    classifier: Text = "mobilenetv2-int8"
    manifest: Text | None = None
    score: Fraction = 0.25
    nms: Fraction = 0.45
    nms_kind: NmsKind = "iou"
    top: Top = 5
    threads: Threads | None = None
    every_frame: Switch | None = None
    max_frames: Count | None = None
    duration: Seconds | None = None
    open_timeout: Seconds = 5.0
    read_timeout: Seconds = 5.0
    retry: Switch = False
    reconnect: Switch | None = None
    isolate: Switch = False
    camera: Text | None = None
    width: Pixels | None = None
    height: Pixels | None = None
    fps: Rate | None = None
    fourcc: FourCC | None = None
    show: Switch = False
    record: Text | None = None
    jsonl: Text | None = None
    stats: Text | None = None
    subscribe: Texts = ()
    publish: Text | None = None
    payload: Payload = "auto"
    quality: Quality = 85
    max_frame_mb: MebiBytes = 32
    await_subscriber: Switch = False
    key: Text | None = None
    peer: Texts = ()
    server: Text | None = None
    insecure: Switch = False
    group: Text | None = None
    quiet: Switch = False
    debug: Switch = False


def settings_from(options: Mapping[str, object], config: str | Path | None = None) -> Settings:
    """The settings that a file and options give together; an option wins, None is not given.

    Raises `ConfigError` that names the key, what was expected and what was given.
    """
    given = load_config(config) if config is not None else {}
    for name, value in options.items():
        if value is not None:
            given[name] = _validated(name, value, f"--{name.replace('_', '-')}")
    return Settings(**given)


def load_config(path: str | Path) -> dict[str, Any]:
    """The settings that a YAML file holds, validated, by name; an empty file holds none.

    Raises `ConfigError` where the file cannot be read, is no YAML mapping, or holds a key that is
    not known or a value out of its range.
    """
    import yaml  # noqa: PLC0415 - only who has a file waits for the import

    try:
        loader = yaml.SafeLoader(Path(path).expanduser().read_text(encoding="utf-8"))
        root = loader.get_single_node()
        content = None if root is None else loader.construct_document(root)
    except OSError as error:
        raise ConfigError(f"config {path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # of text, a date, the nesting
        reason = " ".join(str(error).split())
        raise ConfigError(f"config {path}: not valid YAML: {reason}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not isinstance(root, yaml.MappingNode):
        raise ConfigError(
            f"config {path}: expected lines such as 'score: 0.4', but got {_shown(content)}"
        )
    keys = [str(key.value) for key, _ in root.value]
    for key in keys:  # YAML itself would take the last of them
        if keys.count(key) > 1:
            raise ConfigError(f"config {path}: {key} is set twice; leave one of them")
    settings: dict[str, Any] = {}
    for key, value in content.items():
        name = _known_name(key, path)
        if name in settings:
            raise ConfigError(f"config {path}: {name} is set twice")
        if value is not None:
            settings[name] = _validated(name, value, f"config {path}: {key}")
    return settings


def _known_name(key: object, path: str | Path) -> str:
    name = str(key).replace("-", "_")
    names = Settings.__struct_fields__
    if name in names:
        return name
    if name == "latest":
        raise ConfigError(f"config {path}: latest is not a setting; write 'every_frame: false'")
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}"
    raise ConfigError(f"config {path}: {_shown(key)} is not a setting; {hint}")


_TYPES = get_type_hints(Settings, include_extras=True)


def _validated(name: str, value: object, subject: str) -> Any:
    kind = _TYPES[name]
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{subject}: expected {_expected(kind)}, but got {_shown(value)}"
        ) from error


def _expected(kind: Any) -> str:
    """The description of a setting's type, also where the type may be None as well."""
    for part in (kind, *get_args(kind)):
        for meta in getattr(part, "__metadata__", ()):
            return str(meta.description)
    raise TypeError(f"the settings' type {kind} has no description")


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
