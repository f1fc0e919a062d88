"""Crops for training and calibration: their source images, sizes, seeds and coverage."""

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
def photo():
    rows, columns = np.mgrid[0:300, 0:400]
    return np.dstack([columns * 255 // 399, rows * 255 // 299, (rows + columns) % 256]).astype(
        np.uint8
    )


@pytest.fixture
def encoded(photo) -> bytes:
    return cv2.imencode(".png", photo)[1].tobytes()


def archive_of(path, files):
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


@pytest.mark.parametrize("form", ["archive", "folder"])
def test_images_are_sorted_by_name_and_other_files_skipped(form, tmp_path, encoded, photo):
    files = {"a/2.png": encoded, "a/1.png": encoded, "a/notes.txt": b"?", "b.PNG": encoded}
    source = tmp_path / "photos"
    if form == "archive":
        archive_of(source, files)
    else:
        for name, data in files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(data)
    found = list(read_images(source))
    assert [name for name, _ in found] == ["a/1.png", "a/2.png", "b.PNG"]
    np.testing.assert_array_equal(found[0][1], photo)


def test_damaged_image_is_named_in_the_error(tmp_path, encoded):
    source = archive_of(tmp_path / "p.tar", {"good.png": encoded, "zbad.png": encoded[:40]})
    with pytest.raises(FrameError, match=r"p\.tar: zbad\.png: not a readable image"):
        list(read_images(source))


@pytest.mark.parametrize("content", [None, b"no archive"], ids=["missing", "text"])
def test_source_that_is_not_an_archive_is_an_error(tmp_path, content):
    source = tmp_path / "p.tar"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(InputError, match="expected a folder or a tar archive"):
        list(read_images(source))


def test_imagenet_crop_is_the_centre_of_an_image_with_shorter_side_256(photo):
    resized = cv2.resize(photo, (341, 256), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(imagenet_crop(photo), resized[16:240, 58:282])
    already = np.ascontiguousarray(photo[:256, :300])
    np.testing.assert_array_equal(imagenet_crop(already), already[16:240, 38:262])


@pytest.mark.parametrize("size", [(300, 400), (20, 3), (1, 1)], ids=str)
def test_every_crop_has_the_input_size_of_the_network(photo, size):
    image = np.ascontiguousarray(photo[: size[0], : size[1]])
    rng = np.random.default_rng(0)
    crops = [whole_image(image), *(random_crop(image, rng, (0.04, 1.0)) for _ in range(20))]
    assert {crop.shape for crop in crops} == {(224, 224, 3)}


def test_random_crops_depend_only_on_the_seed(photo):
    first, again, other = (
        random_crop(photo, np.random.default_rng(seed), (0.25, 1.0)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_random_crops_cover_the_requested_share(photo):
    """Blue increases with the column and green with the row, so their range is the extent."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(200):
        crop = random_crop(photo, rng, (0.25, 0.5)).astype(int)
        width = np.ptp(crop[112, :, 0]) / 255
        height = np.ptp(crop[:, 112, 1]) / 255
        shares.append(width * height)
    assert 0.22 < min(shares) < 0.3
    assert 0.45 < max(shares) < 0.54


def test_box_crops_contain_the_box_and_skip_tiny_boxes(photo):
    image = photo.copy()
    image[100:200, 150:250] = (0, 0, 255)
    boxes = np.array([[0.5, 0.5, 0.25, 1 / 3], [0.2, 0.2, 0.02, 0.5]])
    crops = list(box_crops(image, boxes, 3, np.random.default_rng(0)))
    assert len(crops) == 3
    for crop in crops:
        assert crop.shape == (224, 224, 3)
        np.testing.assert_array_equal(crop[112, 112], (0, 0, 255))
        assert 0.4 < (crop == (0, 0, 255)).all(axis=2).mean() <= 1.0
