"""Types of settings, each with its range and with what an error says was expected."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

Text = Annotated[str, Meta(min_length=1, description="a text")]
Source = Annotated[str | int, Meta(description="a camera number, a file or an address")]
Switch = Annotated[bool, Meta(description="true or false")]
Fraction = Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1")]
Seconds = Annotated[float, Meta(gt=0, le=1e9, description="a number of seconds greater than 0")]
Threads = Annotated[int, Meta(ge=1, le=1024, description="a whole number from 1 to 1024")]
Count = Annotated[int, Meta(ge=1, le=2**62, description="a whole number of at least 1")]
Top = Annotated[int, Meta(ge=1, le=1000, description="a whole number from 1 to 1000")]
Pixels = Annotated[int, Meta(ge=1, le=32768, description="a number of pixels from 1 to 32768")]
Rate = Annotated[float, Meta(gt=0, le=1000, description="frames per second, from above 0 to 1000")]
FourCC = Annotated[str, Meta(pattern="^[ -~]{4}$", description="four characters such as MJPG")]
NmsKind = Annotated[Literal["iou", "darknet"], Meta(description="iou or darknet")]
Texts = Annotated[tuple[str, ...], Meta(description="a list of texts")]
Payload = Annotated[
    Literal["auto", "raw", "jpeg", "shm"], Meta(description="auto, raw, jpeg or shm")
]
Quality = Annotated[int, Meta(ge=1, le=100, description="a whole number from 1 to 100")]
MebiBytes = Annotated[int, Meta(ge=1, le=4096, description="a whole number from 1 to 4096")]
