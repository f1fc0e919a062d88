"""Frames and results between processes and machines, over ZeroMQ and shared memory."""

from pipeline.transport.access.rights import Rights
from pipeline.transport.address import is_address, parse_address
from pipeline.transport.wire.schema import (
    Limits,
    WireError,
)
from pipeline.transport.zmq.frames import FrameSubscription, open_subscription, subscribe_frames
from pipeline.transport.zmq.keys import (
    KeyPair,
    Security,
    load_key_pair,
    load_peers,
    load_public_key,
    make_keys,
)
from pipeline.transport.zmq.publisher import Publisher
from pipeline.transport.zmq.results import ResultSubscription
from pipeline.transport.zmq.subscriber import Received, Subscriber, check_subscription

__all__ = [
    "FrameSubscription",
    "KeyPair",
    "Limits",
    "Publisher",
    "Received",
    "ResultSubscription",
    "Rights",
    "Security",
    "Subscriber",
    "WireError",
    "check_subscription",
    "is_address",
    "load_key_pair",
    "load_peers",
    "load_public_key",
    "make_keys",
    "open_subscription",
    "parse_address",
    "subscribe_frames",
]
