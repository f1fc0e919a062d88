"""Frames and results between processes and machines, over ZeroMQ and shared memory."""

from pipeline.transport.address import is_address, parse_address
from pipeline.transport.publisher import Publisher
from pipeline.transport.results import ResultSubscription
from pipeline.transport.security import KeyPair, Security, load_key_pair, load_public_key, make_keys
from pipeline.transport.source import FrameSubscription, open_subscription, subscribe_frames
from pipeline.transport.subscriber import Received, Subscriber
from pipeline.transport.subscribing import check_subscription
from pipeline.transport.wire import Limits, WireError

__all__ = [
    "FrameSubscription",
    "KeyPair",
    "Limits",
    "Publisher",
    "Received",
    "ResultSubscription",
    "Security",
    "Subscriber",
    "WireError",
    "check_subscription",
    "is_address",
    "load_key_pair",
    "load_public_key",
    "make_keys",
    "open_subscription",
    "parse_address",
    "subscribe_frames",
]
