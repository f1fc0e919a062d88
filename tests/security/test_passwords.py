"""Passwords in addresses appear nowhere: not in messages, names of cameras, or results."""

from __future__ import annotations

import json
import logging
import time

import pytest

from pipeline.capture.stream import check_address
from pipeline.cli.main import main
from pipeline.errors import ConfigError, SourceError
from pipeline.inference.registry import Source, check_url
from pipeline.sources import open_source
from pipeline.text.display import shown_source, shown_url
from pipeline.transport.address import parse_address
from tests.capture.conftest import Server, send_images

SECRET = "geheim"  # noqa: S105 - it is looked for, and opens nothing

# Addresses with the secret in all places, and what may be shown of them.
SHOWN = {
    "rtsp://user:geheim@10.0.0.7:8554/front": "rtsp://10.0.0.7:8554",
    "rtsp://10.0.0.7/front?pwd=geheim": "rtsp://10.0.0.7",
    "rtsp://10.0.0.7/user=admin&password=geheim": "rtsp://10.0.0.7",
    "rtsp://10.0.0.7/front#geheim": "rtsp://10.0.0.7",
    "http://[fe80::1]:80/a?token=geheim": "http://[fe80::1]:80",
    "rtsp://user:ge@heim@10.0.0.7/": "rtsp://10.0.0.7",
    "rtsp://user:ge/geheim@10.0.0.7/": "rtsp://...",
    "rtsp://user:12/geheim@10.0.0.7/": "rtsp://...",
    "rtsp://user:ge#geheim@10.0.0.7/": "rtsp://...",
    "rtsp://user:ge?geheim@10.0.0.7/": "rtsp://...",
    "rtsp://user:ge\\geheim@10.0.0.7/": "rtsp://...",
    "rtsp://user:geheim": "rtsp://...",
    "rtsp://10.0.0.7/a?mail=b@c&pwd=geheim": "rtsp://...",
    "rtsp://user:geheim@10.0.0.7:99999/": "rtsp://10.0.0.7:99999",
    "rtsp://user:geheim@10.0.0.7:port/": "rtsp://...",
    "rtsp://user:geheim@/": "rtsp://...",
    "rtsp://user:geheim@ho st/": "rtsp://...",
    "rtp://user:geheim@10.0.0.7/": "rtp://10.0.0.7",
    "user:geheim@10.0.0.7": "user:...",
    "rtsp:/user:geheim@10.0.0.7": "rtsp:...",
    "rtsp//user:geheim@10.0.0.7": "rtsp/...",
    "x:geheim@rtsp://10.0.0.7": "x:...",
    "zmq+tcp://user:geheim@10.0.0.7:5555": "zmq+tcp://10.0.0.7:5555",
    "zmq+tcp://10.0.0.7:5555?pwd=geheim": "zmq+tcp://10.0.0.7:5555",
}


@pytest.mark.parametrize(("text", "shown"), SHOWN.items())
def test_an_address_is_shown_without_what_may_be_a_password(text, shown):
    assert shown_source(text) == shown
    assert SECRET not in shown


@pytest.mark.parametrize(
    "text", ["drive.mp4", "a@b.jpg", "C:/x.mp4", "scene:?drop=0.1", "zmq+tcp://*:5555", "0"]
)
def test_other_sources_are_shown_as_they_are(text):
    assert shown_source(text) == text


def test_a_file_with_such_a_name_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:b@c.mp4").touch()
    assert shown_source("a:b@c.mp4") == "a:b@c.mp4"


@pytest.mark.parametrize("text", SHOWN)
def test_no_error_repeats_a_password(text, capfd):
    text = text.replace("10.0.0.7", "127.0.0.1").replace("127.0.0.1/", "127.0.0.1:9/")
    assert main(["run", text, "--width", "7", "--open-timeout", "0.2"]) == 2
    for option in ("--publish", "--subscribe"):
        command = ("camera", "scene:") if option == "--publish" else ("detect",)
        assert main([*command, option, text]) == 2
    shown = "".join(capfd.readouterr())
    assert shown.count("vision: error: ") == 3
    assert SECRET not in shown
    assert "heim" not in shown
    assert ":12" not in shown.replace(":127", "")


@pytest.mark.parametrize(
    "url", ["rtsp://u:pa/ss@host", "rtsp://u:p@host:99999/", "http://host:port/x", "http://[half"]
)
def test_a_malformed_address_says_how_to_write_one(url):
    with pytest.raises(SourceError, match=r"not a valid address; expected SCHEME.*%2F %23 %3F %40"):
        check_address(url)


def test_an_address_of_zeromq_has_no_user():
    with pytest.raises(ConfigError, match=r"zmq\+tcp://h:1': has a user name; expected"):
        parse_address("zmq+tcp://user:geheim@h:1")


def test_the_name_of_a_host_that_cannot_be_one_is_an_error():
    with pytest.raises(SourceError, match="nothing answers"):
        open_source(f"http://{'x' * 300}/", open_timeout_s=0.2)


@pytest.fixture
def server():
    """A server that answers every request like a network camera."""
    images = send_images(20, lambda _: time.sleep(0.02))  # the rate of the camera

    class AnyPath(dict):
        def get(self, path, default=None):
            return images

    server = Server()
    server.paths = AnyPath()
    yield server
    server.stop()


@pytest.mark.parametrize(
    "place", ["geheim.mjpg?pwd=geheim", "user=admin&password=geheim", "x#geheim"]
)
def test_cameras_and_results_have_the_name_of_the_host(server, place, tmp_path, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    lines = tmp_path / "out.jsonl"
    url = f"http://user:geheim@127.0.0.1:{server.port}/{place}"
    models = ("--detector", "none", "--classifier", "none")
    assert main(["run", url, "--max-frames", "2", *models, "--jsonl", str(lines)]) == 0
    names = [json.loads(line)["camera"] for line in lines.read_text().splitlines()]
    assert names == ["camera_127_0_0_1"] * 2
    assert SECRET not in "".join(capfd.readouterr()) + caplog.text + lines.read_text()


def test_addresses_of_models_are_shown_without_user_and_query():
    url = "https://user:geheim@example.org/models/a.onnx?token=geheim"
    assert shown_url(url) == "https://example.org/models/a.onnx"
    assert str(Source(url=url)) == "https://example.org/models/a.onnx"
    with pytest.raises(ValueError, match=r"but is http://example\.org/a$"):
        check_url("http://user:geheim@example.org/a?token=geheim")
