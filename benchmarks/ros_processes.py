"""Nodes in processes, and a subscriber that measures the age of detections."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.qos import QoSProfile
from vision_msgs.msg import Detection2DArray

from nodes.messages.headers import stamp_ns

END_S = 5.0


class NodeProcess:
    """A node in a separate process, as a context manager."""

    def __init__(self, module: str, parameters: dict[str, object] | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory()
        file = Path(self._folder.name) / "parameters.yaml"
        file.write_text(json.dumps({"/**": {"ros__parameters": parameters or {"threads": 0}}}))
        command = [sys.executable, "-m", f"nodes.{module}", "--ros-args", "--params-file", file]
        self._log = (Path(self._folder.name) / "log").open("w+")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)

    def wait_for(self, text: str, timeout_s: float = 30.0) -> None:
        """Wait until the log contains `text`."""
        deadline_s = time.monotonic() + timeout_s
        while text not in Path(self._log.name).read_text():
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"no '{text}' in: {Path(self._log.name).read_text()}")
            time.sleep(0.05)

    def cpu_share(self, seconds: float) -> float:
        """The share of one core that the process uses during so many seconds."""
        process = psutil.Process(self._process.pid)
        before, started = process.cpu_times(), time.monotonic()
        time.sleep(seconds)
        after = process.cpu_times()
        used_s = after.user + after.system - before.user - before.system
        return used_s / (time.monotonic() - started)

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(self, *reason: object) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self._folder.cleanup()


class Watcher:
    """Subscribes to detections in this process."""

    def __init__(self, topic: str) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("watcher", context=self._context)
        self._ages_ms: list[float] = []
        qos = QoSProfile(depth=1)
        self._node.create_subscription(Detection2DArray, topic, self._on_message, qos)
        self._executor = rclpy.executors.SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def ages_ms(self, warm_up_s: float, seconds: float) -> list[float]:
        """The ages in milliseconds of the messages during so many seconds, after a warm-up."""
        deadline_s = time.monotonic() + 30.0
        while not self._ages_ms:
            if time.monotonic() > deadline_s:
                raise TimeoutError("no detections came within 30 s")
            time.sleep(0.05)
        time.sleep(warm_up_s)
        self._ages_ms.clear()
        time.sleep(seconds)
        return list(self._ages_ms)

    def _on_message(self, message: Detection2DArray) -> None:
        self._ages_ms.append((time.time_ns() - stamp_ns(message.header)) / 1e6)

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *reason: object) -> None:
        self._context.try_shutdown()
        self._thread.join(END_S)
