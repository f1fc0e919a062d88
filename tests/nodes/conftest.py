"""Fixtures for the tests of the nodes: nodes in processes, and an observer node.

Everything has a timeout and stays on this machine, in a ROS domain of its own.
"""

from __future__ import annotations

import fcntl
import functools
import os
import re
import tempfile
import threading
import time
from pathlib import Path

import pytest

from .. import parts
from .processes import WAIT_S, Starter

if parts.HAVE_ROS:
    import rclpy
    from lifecycle_msgs.srv import ChangeState, GetState
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
    from rclpy.task import Future


def pytest_pycollect_makemodule(module_path, parent):
    """Leave the test files out if there is no ROS 2."""
    return None if parts.HAVE_ROS else parts.FileWithoutRos.from_parent(parent, path=module_path)


@pytest.fixture(scope="session", autouse=True)
def own_domain():
    """A ROS domain that only this run uses, on this machine only; ROS_DOMAIN_ID overrides it.

    Yields the lock of the domain. The processes of this run hold it too, so that the next run does
    not meet processes that a killed run has left behind.
    """
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    if "ROS_DOMAIN_ID" in os.environ:
        yield None
        return
    for number in range(100, 0, -1):  # higher domains use the ports of outgoing connections
        with (Path(tempfile.gettempdir()) / f"vision-test-domain-{number}").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            os.environ["ROS_DOMAIN_ID"] = str(number)
            yield lock
            return
    pytest.fail("expected a free ROS domain, but other test runs hold all of them")


@pytest.fixture(scope="session")
def wait_until():
    """Waits until a condition of other threads or processes is true; returns its value.

    `again` is called at once and then every second, because a message that is sent once may be lost
    or replaced by a newer one.
    """

    def wait(condition, what: str, timeout_s: float = WAIT_S, again=None, every_s: float = 1.0):
        deadline = time.monotonic() + timeout_s
        due = time.monotonic() if again else deadline
        while not (value := condition()):
            now = time.monotonic()
            assert now < deadline, f"waited {timeout_s:g} s for {what}"
            if now >= due:
                again()
                due = time.monotonic() + every_s
            time.sleep(0.01)
        return value

    return wait


@pytest.fixture
def starter(tmp_path, own_domain):
    starter = Starter(tmp_path, own_domain)
    yield starter
    starter.close()


@pytest.fixture
def start_process(starter):
    """Starts a command with the environment of this run; it is stopped after the test."""
    return starter.start


@pytest.fixture
def namespace(request) -> str:
    """A namespace that only this test uses."""
    words = re.sub(r"\W+", "_", request.node.name).strip("_")
    return f"/{words[:60].rstrip('_')}_{os.getpid()}"  # ROS does not accept two _ in a row


@pytest.fixture
def start_node(starter, namespace):
    """Starts `python -m nodes.NAME` in the test's namespace; see `Starter.start_node`."""
    return functools.partial(starter.start_node, namespace)


class Inbox:
    """The messages of a topic, in order; thread-safe."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self._messages: list = []
        self._news = threading.Condition()

    def __call__(self, message) -> None:
        with self._news:
            self._messages.append(message)
            self._news.notify_all()

    @property
    def messages(self) -> list:
        with self._news:
            return list(self._messages)

    def clear(self) -> None:
        with self._news:
            self._messages.clear()

    def wait(self, count: int = 1, timeout_s: float = WAIT_S) -> list:
        """Wait for the first `count` messages."""
        with self._news:
            self._news.wait_for(lambda: len(self._messages) >= count, timeout_s)
            got = len(self._messages)
            assert got >= count, f"{got} of {count} messages on {self.topic} in {timeout_s:g} s"
            return self._messages[:count]

    def wait_for(self, condition, timeout_s: float = WAIT_S):
        """Wait for the first message for which the condition is true."""

        def found():
            return next((message for message in self._messages if condition(message)), None)

        with self._news:
            self._news.wait_for(lambda: found() is not None, timeout_s)
            message, got = found(), len(self._messages)
        assert message is not None, f"none of {got} on {self.topic} matches in {timeout_s:g} s"
        return message


class Observer:
    """A node in the test process, spun by a thread; topics are relative to its namespace."""

    def __init__(self, namespace: str, wait_until) -> None:
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node(
            "observer",
            namespace=namespace,
            context=self._context,
            start_parameter_services=False,
        )
        self._wait_until = wait_until
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._ended = Future(executor=self._executor)
        self._thread = threading.Thread(
            target=self._executor.spin_until_future_complete, args=(self._ended,), daemon=True
        )
        self._thread.start()

    @staticmethod
    def qos(depth: int = 10, *, reliable: bool = True, latched: bool = False) -> QoSProfile:
        return QoSProfile(
            depth=depth,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )

    def subscribe(
        self, kind, topic: str, depth: int = 100, *, heard_from: int = 0, **qos: bool
    ) -> Inbox:
        """Subscribe, and wait until `heard_from` publishers are connected."""
        inbox = Inbox(topic)
        subscription = self.node.create_subscription(kind, topic, inbox, self.qos(depth, **qos))
        self._executor.wake()
        self._wait_until(
            lambda: subscription.get_publisher_count() >= heard_from,
            f"{heard_from} publishers of {subscription.topic_name}",
        )
        return inbox

    def publisher(self, kind, topic: str, depth: int = 10, *, heard_by: int = 1, **qos: bool):
        """Create a publisher, and wait until `heard_by` subscribers are connected."""
        publisher = self.node.create_publisher(kind, topic, self.qos(depth, **qos))
        self._wait_until(
            lambda: publisher.get_subscription_count() >= heard_by,
            f"{heard_by} subscribers of {publisher.topic_name}",
        )
        return publisher

    def withdraw(self, publisher) -> None:
        """Remove a publisher."""
        self._run(self.node.destroy_publisher, publisher)

    def call(self, kind, service: str, request):
        """The answer of a service; the request may be sent several times."""
        for _ in range(int(WAIT_S / 5)):
            answer = self.call_once(kind, service, request, 5.0)
            if answer is not None:
                return answer
        raise AssertionError(f"no answer of {service} in {WAIT_S:g} s")

    def call_once(self, kind, service: str, request, timeout_s: float):
        """The answer of a service, or None: a service drops the answer to an unknown client."""
        client = self.node.create_client(kind, service)
        assert client.wait_for_service(WAIT_S), f"no service {client.srv_name}"
        done = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: done.set())
        self._executor.wake()
        is_answered = done.wait(timeout_s)
        self._run(self.node.destroy_client, client)
        return future.result() if is_answered else None

    def _run(self, work, *arguments) -> None:
        """Run `work` on the executor's thread, which must not lose entities while it waits."""
        done = threading.Event()
        self._executor.create_task(work, *arguments).add_done_callback(lambda _: done.set())
        assert done.wait(WAIT_S), f"the observer did not run {work.__name__} in {WAIT_S:g} s"

    def close(self) -> None:
        self._ended.set_result(None)
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), f"the observer did not end in {WAIT_S:g} s"
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()


@pytest.fixture
def observer(own_domain, namespace, wait_until):
    """A node that subscribes, publishes and calls services."""
    observer = Observer(namespace, wait_until)
    yield observer
    observer.close()


@pytest.fixture
def state(observer):
    """Asks for the state of a node."""

    def ask(node):
        answer = observer.call(GetState, f"{node}/get_state", GetState.Request())
        return answer.current_state.label

    return ask


@pytest.fixture
def change(observer, state):
    """Requests a transition of a node; returns whether it succeeded."""

    def ask(node, transition):
        request, before = ChangeState.Request(), state(node)
        request.transition.id = transition
        answer = observer.call_once(ChangeState, f"{node}/change_state", request, timeout_s=20)
        # If the answer got lost, the state shows the outcome; a second request would fail.
        return answer.success if answer is not None else state(node) != before

    return ask


@pytest.fixture(scope="module")
def module_namespace(request) -> str:
    """A namespace that all tests of a file share."""
    return f"/{re.sub(r'[^a-z0-9]+', '_', request.path.stem)}_{os.getpid()}"


@pytest.fixture(scope="module")
def start_module_node(own_domain, tmp_path_factory, module_namespace):
    """Like `start_node`, for a process that all tests of a file share."""
    starter = Starter(tmp_path_factory.mktemp("nodes"), own_domain)
    yield functools.partial(starter.start_node, module_namespace)
    starter.close()


@pytest.fixture(scope="module")
def module_observer(own_domain, module_namespace, wait_until):
    """Like `observer`, for all tests of a file."""
    observer = Observer(module_namespace, wait_until)
    yield observer
    observer.close()
