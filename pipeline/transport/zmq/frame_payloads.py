"""Chooses how a publisher's frames travel, raw, as JPEG or in shared memory, and encodes them."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from pipeline.errors import ConfigError, RunError
from pipeline.settings import Payload
from pipeline.transport.address import Address
from pipeline.transport.shm import ring_file
from pipeline.transport.shm.ring import NoFreeSlot, frame_nbytes
from pipeline.transport.shm.rings import WriterRings
from pipeline.transport.wire.frames import encode_jpeg, encode_raw, little_endian, plane_payloads
from pipeline.transport.wire.messages import encode
from pipeline.transport.wire.schema import CHANNELS, SharedReference
from pipeline.types import Frame, Image

Kind = Literal["raw", "jpeg", "shm"]
PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1

log = logging.getLogger(__name__)


class FramePayloads:
    """Encodes frames for an address as `payload` says; see `Publisher`.

    `count_inline` is called for each frame that is sent raw because all slots are in use. Raises
    `ConfigError` if the payload or the quality is invalid, or does not suit the address.
    """

    def __init__(
        self,
        address: Address,
        payload: Payload,
        quality: int,
        slots: int,
        count_inline: Callable[[str], object],
    ) -> None:
        self._kind = _choose(payload, address)
        self._may_fall_back = payload == "auto"
        if not 1 <= quality <= 100:
            raise ConfigError(f"JPEG quality: expected 1 to 100, but got {quality}")
        self._quality = quality
        self._count_inline = count_inline
        self.rings = WriterRings(slots)

    def buffer(self, camera: str, height: int, width: int) -> Image:
        """Memory for an image that can be sent without copying it, if shared memory is used."""
        if self._kind == "shm":
            with contextlib.suppress(RunError):  # `encode` reports it
                return self.rings.get(camera, height * width * CHANNELS)[0].lend(height, width)
        return np.empty((height, width, CHANNELS), np.uint8)

    def encode(
        self,
        frame: Frame,
        subscribers: frozenset[bytes],
        header: Callable[[], bytes],
        topic: bytes,
    ) -> tuple[Kind, list[Any]]:
        """How the frame travels, and its payloads.

        With shared memory, the readers that are connected directly are notified with `topic` and
        `header()`, if the `subscribers` to the topic (their names, see `subscriber_topic`) are not
        none. Raises `RunError` if
        shared memory is required and not available.
        """
        if self._kind == "jpeg":
            jpeg = encode_jpeg(frame.image, self._quality)
            return "jpeg", [jpeg, *plane_payloads(frame.planes)]
        if self._kind == "shm":
            try:
                return "shm", [encode(self._share(frame, subscribers, header, topic))]
            except NoFreeSlot:
                self._count_inline(frame.camera)
            except RunError as error:
                if not self._may_fall_back:
                    raise
                log.warning("%s; sending raw pixels instead", error)
                self._kind = "raw"
        return "raw", [encode_raw(frame.image), *plane_payloads(frame.planes)]

    def _share(
        self, frame: Frame, subscribers: frozenset[bytes], header: Callable[[], bytes], topic: bytes
    ) -> SharedReference:
        """Write a frame to shared memory, and notify the readers that are connected directly.

        They are notified before the frame is copied, so that they wake up meanwhile, as long as
        each has a processor for that.
        """
        planes = [little_endian(plane) for plane in frame.planes.values()]
        ring, readers = self.rings.get(frame.camera, frame_nbytes(frame.image, planes))
        if not subscribers:
            return ring.write(frame.image, planes=planes)
        if not subscribers <= readers.names:
            readers.accept(subscribers)

        def notify(reference: SharedReference) -> None:
            if readers:
                readers.send(topic, header(), encode(reference))

        if len(readers) < PROCESSORS:
            return ring.write(frame.image, notify, planes)
        reference = ring.write(frame.image, planes=planes)
        notify(reference)
        return reference


def _choose(payload: Payload, address: Address) -> Kind:
    if payload == "auto":
        if not address.is_local:
            return "jpeg"
        return "shm" if ring_file.is_available() else "raw"
    if payload not in {"raw", "jpeg", "shm"}:
        raise ConfigError(f"payload: expected auto, raw, jpeg or shm, but got '{payload}'")
    if payload == "shm" and not address.is_local:
        raise ConfigError(
            f"address '{address.text}': shared memory does not reach another machine; "
            f"choose jpeg or raw, or an address of this machine"
        )
    return payload
