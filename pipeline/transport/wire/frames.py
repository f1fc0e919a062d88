"""Frames as messages: payloads of the image and its planes, and the frame of a message."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from pipeline import images
from pipeline.errors import FrameError
from pipeline.images.headers import jpeg_size
from pipeline.settings import Settings
from pipeline.transport.wire.messages import FrameMessage
from pipeline.transport.wire.schema import (
    CHANNELS,
    ITEM_BYTES,
    MAX_PLANES,
    FrameHeader,
    PlaneHeader,
    SharedReference,
    WireError,
    unit_of,
)
from pipeline.types import Frame, Image, Plane

ALIGNMENT = 64  # bytes, of each array behind an image in shared memory

ReadSlot = Callable[[SharedReference, tuple[int, ...]], Image]
"""Reads the bytes that a reference names, in the shape that is asked for."""


def encode_raw(image: Image) -> memoryview:
    """The pixels as one block of bytes; the image's own memory if that is contiguous."""
    return np.ascontiguousarray(image).data.cast("B")


def encode_jpeg(image: Image, quality: int = Settings.quality) -> bytes:
    """An image as JPEG, quality 1 to 100. Raises `WireError` if it cannot be encoded."""
    try:
        return images.encode_jpeg(image, quality)
    except FrameError as error:
        raise WireError("payload", str(error)) from error


def decode_jpeg(header: FrameHeader, payload: memoryview) -> Image:
    """The pixels of a JPEG, (H, W, 3) uint8 BGR.

    The size is read from the JPEG before anything is decoded. Raises `WireError` if it is not the
    header's, or if the JPEG is incomplete or damaged.
    """
    data = bytes(payload)
    size = jpeg_size(data)
    if size != (header.width, header.height):
        stated = "no size" if size is None else f"{size[0]} x {size[1]} pixels"
        raise WireError(
            "payload", f"the JPEG states {stated}, its header {header.width} x {header.height}"
        )
    try:
        return images.decode_jpeg(data)
    except FrameError as error:
        raise WireError("payload", str(error)) from error


def plane_headers(planes: Mapping[str, Plane]) -> tuple[PlaneHeader, ...]:
    """The description of each plane.

    Raises `WireError` if a receiver would refuse one.
    """
    if len(planes) > MAX_PLANES:
        raise WireError("size", f"a frame with {len(planes)} planes; at most {MAX_PLANES}")
    for name, plane in planes.items():
        if plane.dtype.name not in ITEM_BYTES or plane.ndim not in {2, 3}:
            raise WireError(
                "payload",
                f"plane '{name}' must have shape (H, W) or (H, W, C) and a dtype of "
                f"{', '.join(ITEM_BYTES)}, but got {plane.shape} of {plane.dtype}",
            )
    return tuple(
        PlaneHeader(name, plane.dtype.name, plane.shape, unit_of(name, plane.dtype.name))
        for name, plane in planes.items()
    )


def little_endian(plane: Plane) -> Plane:
    """The plane with its values little-endian; itself if they are."""
    return plane.astype(plane.dtype.newbyteorder("<"), copy=False)


def plane_payloads(planes: Mapping[str, Plane]) -> list[memoryview]:
    """The bytes of each plane; its own memory if that is contiguous and little-endian."""
    return [np.ascontiguousarray(little_endian(p)).data.cast("B") for p in planes.values()]


def layout(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where arrays of these sizes in bytes begin in a slot, and the size of all together."""
    starts, end = [], 0
    for size in sizes:
        start = -(-end // ALIGNMENT) * ALIGNMENT
        starts.append(start)
        end = start + size
    return starts, end


def frame_of(message: FrameMessage, read_slot: ReadSlot) -> Frame:
    """The frame that a message holds; `read_slot` reads shared memory.

    Raises `WireError` if its JPEG is invalid, and what `read_slot` raises.
    """
    header, reference = message.header, message.reference
    shape = header.height, header.width, CHANNELS
    planes: Sequence[Any] = message.planes
    if reference is not None and not header.planes:
        image = read_slot(reference, shape)
    elif reference is not None:
        image, planes = _read_shared(header, partial(read_slot, reference), shape)
    elif header.kind == "raw":
        image = np.frombuffer(message.payload, np.uint8).reshape(shape)
    else:
        image = decode_jpeg(header, message.payload)
    return Frame(
        image,
        header.stamp_ns,
        header.seq,
        header.camera,
        {
            plane.name: np.frombuffer(values, f"<{np.dtype(plane.dtype).str[1:]}").reshape(
                plane.shape
            )
            for plane, values in zip(header.planes, planes, strict=True)
        },
        header.read_ns if header.recorded else time.time_ns(),
        header.recorded,
    )


def _read_shared(
    header: FrameHeader, read: Callable[[tuple[int, ...]], Image], shape: tuple[int, ...]
) -> tuple[Image, Sequence[Image]]:
    """The image and the bytes of each plane in shared memory."""
    sizes = [header.image_nbytes, *(plane.nbytes for plane in header.planes)]
    starts, nbytes = layout(sizes)
    slot = read((nbytes,))
    image, *planes = (slot[i : i + size] for i, size in zip(starts, sizes, strict=True))
    return image.reshape(shape), planes
