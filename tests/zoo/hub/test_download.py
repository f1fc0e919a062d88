"""Downloads from a real server that cuts, hangs, lies and redirects."""

from __future__ import annotations

import hashlib
import urllib.request

import pytest

from pipeline.errors import InputError, OutputError, RunError
from pipeline.inference.registry import ModelFile
from pipeline.zoo.hub.download import _CarefulRedirects, download


@pytest.fixture
def file(content) -> ModelFile:
    digest = hashlib.sha256(content).hexdigest()
    return ModelFile(name="file.bin", bytes=len(content), sha256=digest)


@pytest.fixture
def partial(tmp_path):
    return tmp_path / "file.part"


def fetch(server, how, file, partial, seen=None, **settings):
    progress = (lambda _there: None) if seen is None else seen.append
    download(server.url(how), file, partial, progress, **settings)


@pytest.mark.parametrize("how", ["good", "plain", "cut", "moved"])
def test_the_file_arrives_whole(server, file, partial, content, how):
    seen = []
    fetch(server, how, file, partial, seen)
    assert partial.read_bytes() == content
    assert seen[-1] == len(content)


def test_a_cut_connection_is_taken_up_where_it_broke(server, file, partial):
    fetch(server, "cut", file, partial)
    starts = [asked for _, asked in server.requests]
    assert starts == [None, *(f"bytes={n}-" for n in range(1000, file.bytes, 1000))]


def test_what_an_earlier_run_left_is_gone_on_with(server, file, partial, content):
    partial.write_bytes(content[:3000])
    fetch(server, "good", file, partial)
    assert partial.read_bytes() == content
    assert server.requests == [("good", "bytes=3000-")]


def test_a_server_that_ignores_ranges_sends_all_of_it(server, file, partial, content):
    partial.write_bytes(content[:3000])
    fetch(server, "plain", file, partial)
    assert partial.read_bytes() == content


@pytest.mark.parametrize("left", [b"x" * 3000, b"x" * 5120], ids=["part", "all"])
def test_a_damaged_part_is_fetched_anew(server, file, partial, content, left):
    partial.write_bytes(left)
    fetch(server, "good", file, partial)
    assert partial.read_bytes() == content


def test_a_server_that_goes_on_elsewhere_is_not_believed(server, file, partial):
    with pytest.raises(InputError, match="goes on from byte 999, not from 1000"):
        fetch(server, "shifted", file, partial)
    assert not partial.exists()


def test_wrong_bytes_are_refused_with_both_hashes_and_not_kept(server, file, partial, content):
    found = hashlib.sha256(content[::-1]).hexdigest()
    with pytest.raises(InputError, match=f"has SHA-256 {found}, expected {file.sha256}"):
        fetch(server, "wrong", file, partial)
    assert not partial.exists()


@pytest.mark.parametrize(
    ("how", "message"),
    [("short", "gives 50 bytes, expected the 5120"), ("long", "gives more than the 5120 bytes")],
)
def test_a_file_of_another_size_is_refused_and_not_kept(server, file, partial, how, message):
    with pytest.raises(InputError, match=message):
        fetch(server, how, file, partial)
    assert not partial.exists()


@pytest.mark.parametrize(
    ("how", "requests", "message"),
    [("missing", 1, "answers 404"), ("broken", 3, "answers 500")],
)
def test_only_answers_that_may_change_are_asked_for_again(
    server, file, partial, how, requests, message
):
    with pytest.raises(RunError, match=message):
        fetch(server, how, file, partial)
    assert len(server.requests) == requests


def test_a_server_that_stops_sending_is_given_up_and_the_rest_asked_for(
    server, file, partial, content
):
    fetch(server, "stuck", file, partial, silence_s=0.5)
    first, *_, last = [asked for _, asked in server.requests]  # more where this machine stood still
    assert (first, last) == (None, "bytes=1000-")
    assert partial.read_bytes() == content


def test_a_redirect_that_gives_up_encryption_is_not_followed(server, file, partial):
    with pytest.raises(RunError, match=r"redirected: an address must begin with https://"):
        fetch(server, "away", file, partial)


def test_encryption_is_not_given_up_for_this_machine_either():
    request = urllib.request.Request("https://models.example/file.bin")
    with pytest.raises(RunError, match="from an encrypted address to http://127"):
        _CarefulRedirects().redirect_request(request, None, 302, "", {}, "http://127.0.0.1/file")


@pytest.mark.parametrize("how", ["astray", "gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n"])
def test_an_address_that_is_none_is_a_source_that_fails(server, file, partial, how):
    with pytest.raises(RunError, match=f"{how}/file"):
        fetch(server, how, file, partial)
    assert not partial.exists()


def test_nobody_listens(server, file, partial):
    url = server.url("good")
    server.close()
    with pytest.raises(RunError, match="refused"):
        download(url, file, partial, lambda _there: None)


def test_a_place_that_cannot_be_written_is_named(server, file, tmp_path):
    with pytest.raises(OutputError, match=r"none/file\.part: cannot be written"):
        fetch(server, "good", file, tmp_path / "none/file.part")
