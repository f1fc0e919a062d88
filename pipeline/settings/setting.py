"""One setting: its type, range, default, help, group, and where it applies."""

from __future__ import annotations

import contextlib
import numbers
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, replace
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta

from pipeline.errors import ConfigError

MAX_SIDE = 32768
"""Pixels of the longer side of an image, at most."""

Text = Annotated[str, Meta(min_length=1, description="a text")]
Source = Annotated[str | int, Meta(description="a camera number, a file or an address")]
Switch = Annotated[bool, Meta(description="true or false")]
Fraction = Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1")]
Seconds = Annotated[float, Meta(gt=0, le=1e9, description="a number of seconds greater than 0")]
Threads = Annotated[int, Meta(ge=1, le=1024, description="a whole number from 1 to 1024")]
Count = Annotated[int, Meta(ge=1, le=2**62, description="a whole number of at least 1")]
Top = Annotated[int, Meta(ge=1, le=1000, description="a whole number from 1 to 1000")]
Pixels = Annotated[
    int, Meta(ge=1, le=MAX_SIDE, description=f"a number of pixels from 1 to {MAX_SIDE}")
]
Rate = Annotated[float, Meta(gt=0, le=1000, description="frames per second, from above 0 to 1000")]
FourCC = Annotated[str, Meta(pattern="^[ -~]{4}$", description="four characters such as MJPG")]
NmsKind = Annotated[Literal["iou", "darknet"], Meta(description="iou or darknet")]
Texts = Annotated[tuple[str, ...], Meta(description="a list of texts")]
Payload = Annotated[
    Literal["auto", "raw", "jpeg", "shm"], Meta(description="auto, raw, jpeg or shm")
]
Quality = Annotated[int, Meta(ge=1, le=100, description="a whole number from 1 to 100")]
Cameras = Annotated[int, Meta(ge=1, le=64, description="a whole number from 1 to 64")]
MebiBytes = Annotated[int, Meta(ge=1, le=4096, description="a whole number from 1 to 4096")]


T = TypeVar("T")

VARIABLES = "VISION_"
"""The beginning of all environment variables."""

_ABOUT = "setting"

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class Place:
    """Where settings apply: the section of the help, the commands, and the ROS nodes."""

    group: str
    commands: tuple[str, ...]
    nodes: tuple[str, ...] = ()

    def and_commands(self, *more: str) -> Place:
        """The same with further commands."""
        return replace(self, commands=(*self.commands, *more))


@dataclass(frozen=True, kw_only=True)
class About(Place):
    """What an entry of the table says of a setting besides its name, type and default.

    `unset` describes the default if that is None; `defaults` are those of single commands.
    `flags` are the names of the option if they are not just `--name`; one without a dash is a
    positional argument. `ros` is the name of the ROS parameter, empty if there is none.
    """

    help: str
    unset: str = ""
    defaults: Mapping[str, object] = field(default_factory=dict)
    metavar: str = ""
    flags: tuple[str, ...] = ()
    ros: str = ""


def setting(default: T, text: str, place: Place, **more: Any) -> T:
    """Define a field of `Settings`; `more` are further fields of `About`."""
    about = About(**vars(place), help=text, **more)
    defined: T = field(default=default, metadata={_ABOUT: about})
    return defined


@dataclass(frozen=True)
class Setting:
    """A defined setting. `kind` is its annotated type, without the None of an unset one."""

    name: str
    kind: Any
    default: Any
    about: About

    @classmethod
    def of(cls, annotation: Any, entry: Field[Any]) -> Setting:
        """Make one from the resolved annotation of a field and its entry."""
        kind = annotation
        if get_origin(annotation) is not Annotated:  # that is, KIND | None
            kind = get_args(annotation)[0]
        return cls(entry.name, kind, entry.default, entry.metadata[_ABOUT])

    @property
    def variable(self) -> str:
        """The environment variable, such as VISION_SCORE."""
        return f"{VARIABLES}{self.name.upper()}"

    @property
    def flags(self) -> tuple[str, ...]:
        """The names of the option, such as --every-frame and --latest."""
        return self.about.flags or (f"--{self.name.replace('_', '-')}",)

    @property
    def option(self) -> str:
        """The first name of the option."""
        return self.flags[0]

    @property
    def base(self) -> Any:
        """The type without its range: bool, int, float, str, tuple[str, ...] or a Literal."""
        return get_args(self.kind)[0]

    @property
    def is_switch(self) -> bool:
        """Whether it is true or false."""
        return self.base is bool

    @property
    def is_list(self) -> bool:
        """Whether it holds several texts."""
        return get_origin(self.base) is tuple

    @property
    def choices(self) -> tuple[str, ...]:
        """All values it may have, of one with few values."""
        return get_args(self.base) if get_origin(self.base) is Literal else ()

    @property
    def range(self) -> msgspec.Meta:
        """The range (`gt`, `ge`, `lt`, `le`) and the description of what is expected."""
        meta: msgspec.Meta = get_args(self.kind)[1]
        return meta

    @property
    def expected(self) -> str:
        """What a value must be, such as `a number from 0 to 1`."""
        return str(self.range.description)

    def default_of(self, command: str) -> Any:
        """The default; a command may have one of its own."""
        return self.about.defaults.get(command, self.default)

    def check(self, value: object, subject: str) -> Any:
        """`value` in the type of the setting.

        Raises `ConfigError` that begins with `subject` if type or range are not as expected.
        """
        return checked(value, self.kind, subject)

    def check_text(self, text: str, subject: str) -> Any:
        """The value that `text` stands for on a command line or in the environment.

        A list is separated by spaces. Raises `ConfigError` as `check` does.
        """
        value: object = text
        if self.is_list:
            value = text.split()
        elif self.is_switch and text.lower() in (*_TRUE, *_FALSE):
            value = text.lower() in _TRUE
        elif self.base in (int, float):
            with contextlib.suppress(ValueError):
                value = float(text)
                value = int(text)
        return self.check(value, subject)


def checked(value: object, kind: Any, subject: str) -> Any:
    """`value` in a type of this module, such as `Threads`; NumPy's numbers become Python's.

    Raises `ConfigError` that begins with `subject` if type or range are not as expected.
    """
    plain = value
    if not isinstance(value, (bool, int, float)) and isinstance(value, numbers.Real):
        plain = int(value) if isinstance(value, numbers.Integral) else float(value)
    try:
        return msgspec.convert(plain, kind)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        expected = get_args(kind)[1].description
        raise ConfigError(f"{subject}: expected {expected}, but got {shown(value)}") from error


def shown(value: object) -> str:
    """A value for a message: texts in quotes, and long ones shortened."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
