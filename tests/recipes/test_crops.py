from __future__ import annotations

import io
import tarfile

import cv2
import numpy as np
import pytest

from pipeline.errors import FrameError, InputError
from recipes.crops import (
    box_crops,
    imagenet_crop,
    random_crop,
    read_images,
    whole_image,
)


@pytest.fixture
def picture():
    rows, columns = np.mgrid[0:300, 0:400]
    return np.dstack([columns * 255 // 399, rows * 255 // 299, (rows + columns) % 256]).astype(
        np.uint8
    )


@pytest.fixture
def encoded(picture) -> bytes:
    return cv2.imencode(".png", picture)[1].tobytes()


def archive_of(path, files):
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


@pytest.mark.parametrize("form", ["archive", "folder"])
def test_pictures_come_sorted_by_name_and_other_files_not_at_all(form, tmp_path, encoded, picture):
    files = {"a/2.png": encoded, "a/1.png": encoded, "a/notes.txt": b"?", "b.PNG": encoded}
    source = tmp_path / "pictures"
    if form == "archive":
        archive_of(source, files)
    else:
        for name, data in files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(data)
    found = list(read_images(source))
    assert [name for name, _ in found] == ["a/1.png", "a/2.png", "b.PNG"]
    np.testing.assert_array_equal(found[0][1], picture)


def test_damaged_picture_is_an_error_that_names_it(tmp_path, encoded):
    source = archive_of(tmp_path / "p.tar", {"good.png": encoded, "zbad.png": encoded[:40]})
    with pytest.raises(FrameError, match=r"p\.tar: zbad\.png: not a readable image"):
        list(read_images(source))


@pytest.mark.parametrize("content", [None, b"no archive"], ids=["missing", "text"])
def test_source_that_is_no_archive_is_an_error(tmp_path, content):
    source = tmp_path / "p.tar"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(InputError, match="expected a folder or a tar archive"):
        list(read_images(source))


def test_tested_crop_is_the_middle_of_a_picture_whose_shorter_side_is_256(picture):
    resized = cv2.resize(picture, (341, 256), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(imagenet_crop(picture), resized[16:240, 58:282])
    already = np.ascontiguousarray(picture[:256, :300])
    np.testing.assert_array_equal(imagenet_crop(already), already[16:240, 38:262])


@pytest.mark.parametrize("size", [(300, 400), (20, 3), (1, 1)], ids=str)
def test_every_crop_has_the_networks_size_whatever_the_picture(picture, size):
    image = np.ascontiguousarray(picture[: size[0], : size[1]])
    rng = np.random.default_rng(0)
    crops = [whole_image(image), *(random_crop(image, rng, (0.04, 1.0)) for _ in range(20))]
    assert {crop.shape for crop in crops} == {(224, 224, 3)}


def test_random_crops_repeat_with_the_seed_and_only_with_it(picture):
    first, again, other = (
        random_crop(picture, np.random.default_rng(seed), (0.25, 1.0)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_random_crops_cover_the_share_asked_for(picture):
    """Blue runs over the columns and green over the rows, so their spread tells the extent."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(200):
        crop = random_crop(picture, rng, (0.25, 0.5)).astype(int)
        width = np.ptp(crop[112, :, 0]) / 255
        height = np.ptp(crop[:, 112, 1]) / 255
        shares.append(width * height)
    assert 0.22 < min(shares) < 0.3
    assert 0.45 < max(shares) < 0.54


def test_box_crops_show_the_box_and_leave_out_tiny_ones(picture):
    image = picture.copy()
    image[100:200, 150:250] = (0, 0, 255)
    boxes = np.array([[0.5, 0.5, 0.25, 1 / 3], [0.2, 0.2, 0.02, 0.5]])
    crops = list(box_crops(image, boxes, 3, np.random.default_rng(0)))
    assert len(crops) == 3
    for crop in crops:
        assert crop.shape == (224, 224, 3)
        np.testing.assert_array_equal(crop[112, 112], (0, 0, 255))
        assert 0.4 < (crop == (0, 0, 255)).all(axis=2).mean() <= 1.0
