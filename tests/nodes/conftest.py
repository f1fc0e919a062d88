"""What the tests of the nodes share: real nodes in processes, and an observer to talk to them.

Everything is bounded in time and stays on this machine, in a domain that no other test run has.
"""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60.0
"""How long a test waits for anything before it fails; nothing here should take that long."""
HAVE_ROS = all(importlib.util.find_spec(name) for name in ("rclpy", "vision_msgs"))
if HAVE_ROS:
    import rclpy
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
    from rclpy.task import Future


class _WithoutRos(pytest.Module):
    """A test file that is not even imported."""

    def collect(self):
        pytest.skip("needs ROS 2 and vision_msgs: make test-ros", allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    """Skip the test files here, and say why, where there is no ROS 2."""
    return None if HAVE_ROS else _WithoutRos.from_parent(parent, path=module_path)


@pytest.fixture(scope="session", autouse=True)
def own_domain():
    """A ROS domain for this run alone, not heard outside this machine; ROS_DOMAIN_ID overrides.

    Gives the lock of it, for the processes of this run to hold too: where the run is killed, what
    it leaves behind is not met by the next one.
    """
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    if "ROS_DOMAIN_ID" in os.environ:
        yield None
        return
    for number in range(100, 0, -1):  # above, the ports would be those of outgoing connections
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
    """Waits for a condition that other threads or processes bring about; gives its value.

    `again` is called at once and then every second: what is sent only once may be lost, or
    displaced by something newer, where the one who is to hear it stands still.
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


class NodeProcess:
    """A process, its log, and its end."""

    def __init__(self, command: list[str], environment: dict[str, str], lock=None) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            pass_fds=[] if lock is None else [lock.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.pid = self._process.pid
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout:
            with self._news:
                self._lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    @property
    def log(self) -> str:
        """Everything that the process has written so far."""
        with self._news:
            return "\n".join(self._lines)

    def count(self, pattern: str) -> int:
        """How many lines the pattern is in."""
        with self._news:
            return sum(re.search(pattern, line) is not None for line in self._lines)

    def wait_for_log(self, pattern: str, timeout_s: float = WAIT_S) -> str:
        """The first line that the pattern is in; fails where the process ends without one."""

        def found() -> str | None:
            return next((line for line in self._lines if re.search(pattern, line)), None)

        with self._news:
            self._news.wait_for(lambda: found() or not self._reader.is_alive(), timeout_s)
            line = found()
        assert line is not None, f"no {pattern!r} within {timeout_s:g} s in:\n{self.log}"
        return line

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it without a warning, as a crash would."""
        self._process.kill()

    def wait(self, timeout_s: float = WAIT_S) -> int:
        """The exit code; the log is complete then."""
        code = self._process.wait(timeout_s)
        self._reader.join(timeout_s)
        return code

    def stop(self, number: int = signal.SIGINT, timeout_s: float = WAIT_S) -> int:
        """Send the signal and wait; the exit code."""
        self.send(number)
        return self.wait(timeout_s)

    def close(self) -> None:
        """Leave nothing running, whatever a test left; pytest shows its log where that failed."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._reader.join(5)
        sys.stdout.write(f"--- {' '.join(self._process.args)}\n{self.log}\n")


class Starter:
    """Starts processes, and leaves none."""

    def __init__(self, folder: Path, domain_lock) -> None:
        self._folder = folder
        self._domain_lock = domain_lock
        self._started: list[NodeProcess] = []

    def start(self, *command: object, **variables: object) -> NodeProcess:
        """Start a command with the environment of this run."""
        logs = self._folder / "log"
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "ROS_LOG_DIR": str(logs)}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment |= {name: str(value) for name, value in variables.items()}
        process = NodeProcess([str(part) for part in command], environment, self._domain_lock)
        self._started.append(process)
        return process

    def start_node(
        self,
        namespace: str,
        module: str,
        parameters: dict[str, object] | None = None,
        *arguments: str,
        name: str | None = None,
        variables: dict[str, object] | None = None,
    ) -> NodeProcess:
        """Start `python -m nodes.MODULE`, or a Python file that takes the same arguments."""
        file = self._folder / f"parameters-{len(self._started)}.yaml"
        file.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters or {}}}))
        given = ["-r", f"__ns:={namespace}", *arguments]
        if name is not None:
            given += ["-r", f"__node:={name}"]
        if parameters:
            given += ["--params-file", str(file)]
        what = [module] if module.endswith(".py") else ["-m", f"nodes.{module}"]
        return self.start(sys.executable, *what, "--ros-args", *given, **(variables or {}))

    def close(self) -> None:
        for process in reversed(self._started):
            process.close()


@pytest.fixture
def starter(tmp_path, own_domain):
    starter = Starter(tmp_path, own_domain)
    yield starter
    starter.close()


@pytest.fixture
def start_process(starter):
    """Start a command with the environment of this run; it is stopped after the test."""
    return starter.start


@pytest.fixture
def namespace(request) -> str:
    """A namespace that only this test uses."""
    words = re.sub(r"\W+", "_", request.node.name).strip("_")
    return f"/{words[:60].rstrip('_')}_{os.getpid()}"  # two _ in a row ROS does not accept


@pytest.fixture
def start_node(starter, namespace):
    """Start `python -m nodes.NAME` in the test's namespace, with parameters of any type.

    `arguments` are further `--ros-args`; `name` is the node's name where it is not the module's;
    `variables` are environment variables.
    """
    return functools.partial(starter.start_node, namespace)


class Inbox:
    """What came on a topic, in order; for other threads to wait for."""

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
        """The first `count` messages, once they are there."""
        with self._news:
            self._news.wait_for(lambda: len(self._messages) >= count, timeout_s)
            got = len(self._messages)
            assert got >= count, f"{got} of {count} messages on {self.topic} in {timeout_s:g} s"
            return self._messages[:count]

    def wait_for(self, condition, timeout_s: float = WAIT_S):
        """The first message that the condition holds for."""

        def found():
            return next((message for message in self._messages if condition(message)), None)

        with self._news:
            self._news.wait_for(lambda: found() is not None, timeout_s)
            message, got = found(), len(self._messages)
        assert message is not None, f"none of {got} on {self.topic} fits in {timeout_s:g} s"
        return message


class Observer:
    """A node in the test's own process, spun by a thread; topics are relative to its namespace."""

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
        """What comes on a topic from now on, or once so many publishers are connected."""
        inbox = Inbox(topic)
        subscription = self.node.create_subscription(kind, topic, inbox, self.qos(depth, **qos))
        self._executor.wake()
        self._wait_until(
            lambda: subscription.get_publisher_count() >= heard_from,
            f"{heard_from} publishers of {subscription.topic_name}",
        )
        return inbox

    def publisher(self, kind, topic: str, depth: int = 10, *, heard_by: int = 1, **qos: bool):
        """A publisher, once so many subscribers listen to it."""
        publisher = self.node.create_publisher(kind, topic, self.qos(depth, **qos))
        self._wait_until(
            lambda: publisher.get_subscription_count() >= heard_by,
            f"{heard_by} subscribers of {publisher.topic_name}",
        )
        return publisher

    def withdraw(self, publisher) -> None:
        """Take a publisher away."""
        self._run(self.node.destroy_publisher, publisher)

    def call(self, kind, service: str, request):
        """The answer of a service, which may be asked several times."""
        for _ in range(int(WAIT_S / 5)):
            answer = self.call_once(kind, service, request, 5.0)
            if answer is not None:
                return answer
        raise AssertionError(f"no answer of {service} in {WAIT_S:g} s")

    def call_once(self, kind, service: str, request, timeout_s: float):
        """The answer of a service, or None: one who has not met its client yet drops the answer."""
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
        """On the executor's thread, which would stumble over what another one takes away."""
        done = threading.Event()
        self._executor.create_task(work, *arguments).add_done_callback(lambda _: done.set())
        assert done.wait(WAIT_S), f"the observer does not get to {work.__name__} in {WAIT_S:g} s"

    def close(self) -> None:
        self._ended.set_result(None)
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), f"the observer does not end in {WAIT_S:g} s"
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()


@pytest.fixture
def observer(own_domain, namespace, wait_until):
    """Subscribes, publishes and calls services, as other people's nodes do."""
    observer = Observer(namespace, wait_until)
    yield observer
    observer.close()


@pytest.fixture(scope="module")
def module_namespace(request) -> str:
    """A namespace for the nodes that all tests of a file share."""
    return f"/{re.sub(r'[^a-z0-9]+', '_', request.path.stem)}_{os.getpid()}"


@pytest.fixture(scope="module")
def start_module_node(own_domain, tmp_path_factory, module_namespace):
    """As `start_node`, for a process that all tests of a file share."""
    starter = Starter(tmp_path_factory.mktemp("nodes"), own_domain)
    yield functools.partial(starter.start_node, module_namespace)
    starter.close()


@pytest.fixture(scope="module")
def module_observer(own_domain, module_namespace, wait_until):
    """As `observer`, for all tests of a file."""
    observer = Observer(module_namespace, wait_until)
    yield observer
    observer.close()
