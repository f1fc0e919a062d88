"""What is subscribed to and by which socket, also for who only looks whether it could be."""

from __future__ import annotations

from collections.abc import Sequence

import zmq

from pipeline.errors import ConfigError
from pipeline.transport.address import Address, parse_address
from pipeline.transport.wire import messages as wire
from pipeline.transport.wire.messages import Limits
from pipeline.transport.zmq.keys import Security
from pipeline.transport.zmq.sockets import Endpoint
from pipeline.transport.zmq.worker_groups import turn_prefix


def check_subscription(
    addresses: str | Sequence[str], *, group: str | None = None, security: Security | None = None
) -> None:
    """Raise `ConfigError` where it cannot be subscribed to addresses so.

    Nothing is subscribed to: a publisher that awaits a subscriber would begin, and nobody would
    have what it sends.
    """
    turn = turn_of(group)
    open_socket(parse_addresses(addresses), turn, security or Security(), Limits(), 1).close()


def parse_addresses(addresses: str | Sequence[str]) -> list[Address]:
    """The parts of one or several addresses; raises `ConfigError` where one is none."""
    texts = [addresses] if isinstance(addresses, str) else addresses
    if not texts:
        raise ConfigError("subscribe: no address was given")
    return [parse_address(text) for text in texts]


def turn_of(group: str | None) -> bytes:
    """What the topics of a group's turns begin with; nothing without a group."""
    return turn_prefix(group) if group is not None else b""


def open_socket(
    addresses: list[Address], turn: bytes, security: Security, limits: Limits, streams: int
) -> Endpoint:
    """The socket of a subscriber at all of the addresses, with no subscription yet."""
    # A member of a group has something to say to the publisher, for which there is XSUB.
    kind = zmq.XSUB if turn else zmq.SUB
    endpoint = Endpoint(kind, security, limits.max_part_bytes, streams)
    try:
        for address in addresses:
            endpoint.open(address, address.bind is True)
    except BaseException:
        endpoint.close()
        raise
    return endpoint


def topics_of(addresses: Sequence[Address], frames: bool, results: bool) -> list[bytes]:
    """What to subscribe to: a topic, or a beginning of topics that ends with a slash."""
    cameras = {address.camera for address in addresses}
    topics = []
    for camera in {None} if None in cameras else cameras:
        if frames:
            topics.append(wire.frame_topic(camera) if camera else b"frame/")
        if results:
            topics.append(wire.result_topic(camera) if camera else b"result/")
    return topics
