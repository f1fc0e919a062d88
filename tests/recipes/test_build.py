"""How the shipped files are made: models keep their metadata, samples match their source."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.errors import FrameError
from pipeline.inference.spec import METADATA_KEY, decode_spec, encode_spec
from pipeline.zoo.onnx_file import load_graph
from recipes.build import SAMPLES, write_sample

FOLDER = Path(__file__).resolve().parents[2] / "models" / "samples"
SIZES = {"astronaut.jpg": (512, 512), "cat.jpg": (300, 451), "coffee.jpg": (400, 600)}


@pytest.mark.parametrize("model", ["yolov4-tiny-int8", "mobilenetv2-int8"])
def test_rebuilt_model_has_the_same_metadata(model):
    pytest.importorskip("onnx")
    graph = load_graph(FOLDER.parent / f"{model}.onnx")
    (stored,) = (entry.value for entry in graph.metadata_props if entry.key == METADATA_KEY)
    assert encode_spec(decode_spec(stored, model)) == stored


@pytest.mark.parametrize("name", SIZES)
def test_sample_exists_is_small_and_credited(name):
    path = FOLDER / name
    image = cv2.imread(str(path))
    assert image is not None
    assert image.shape == (*SIZES[name], 3)
    assert path.stat().st_size < 400_000
    assert f"`{name}`" in (FOLDER / "CREDITS.md").read_text(encoding="utf-8")


def test_every_sample_has_a_recipe():
    assert {path.name for path in FOLDER.glob("*.jpg")} == set(SAMPLES)


def test_sample_stays_close_to_its_source(tmp_path):
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8), (0, 0), 3)
    source, target = tmp_path / "a.png", tmp_path / "new" / "a.jpg"
    cv2.imwrite(str(source), smooth)
    write_sample(source, target)
    error = np.abs(cv2.imread(str(target)).astype(int) - smooth)
    assert error.mean() < 2
    assert target.read_bytes()[:2] == b"\xff\xd8"


def test_source_that_is_not_an_image_is_an_error(tmp_path):
    source = tmp_path / "a.png"
    source.write_text("no image")
    with pytest.raises(FrameError, match=r"a\.png: not a readable image"):
        write_sample(source, tmp_path / "a.jpg")
