"""YOLO data sets as tools export them: where the names, the parts and the text files are."""

from __future__ import annotations

import logging
import shutil

import pytest

from pipeline.zoo.datasets.boxes import read_boxes

from .test_boxes import LABELS, TRUTH, coco, voc, write_images, yolo

ORDER = ["potted plant", "motorbike", "cat"]  # of the data set; the model's is another
IDS = [2, 1, 0]  # of the model, by class of the data set
YAML = f"train: ../train/images\nval: ../valid/images\nnc: 3\nnames: {ORDER}\n"


def ids_of(images):
    return {image.path.name: sorted(image.class_ids.tolist()) for image in images}


EXPECTED = {name: sorted(IDS[c] for c, _ in boxes) for name, boxes in TRUTH.items()}


def roboflow_part(root):
    """`data.yaml` is beside the parts, and its paths have one `..` too many."""
    (root / "data.yaml").write_text(YAML)
    return yolo_in(root / "valid")


def yolo_in(folder):
    folder.mkdir()
    return yolo(folder)


def dataset_yaml(root):
    yolo(root)
    (root / "dataset.yaml").write_text(YAML.replace("../valid/images", "images"))
    return root


def names_file_above(root):
    (root / "obj.names").write_text("\n".join(ORDER))
    return yolo_in(root / "part")


def labelimg(root):
    """Text files beside the images."""
    write_images(root / "all")
    made = yolo_in(root / "made")
    for text in (made / "labels").iterdir():
        shutil.copy(text, root / "all")
    (root / "all" / "classes.txt").write_text("\n".join(ORDER))
    return root / "all"


def cvat(root):
    write_images(root / "obj_train_data")
    made = yolo_in(root.parent / "made")
    for text in (made / "labels").iterdir():
        shutil.copy(text, root / "obj_train_data")
    (root / "obj.names").write_text("\n".join(ORDER))
    (root / "obj.data").write_text("classes = 3\nnames = data/obj.names\n")
    return root


LAYOUTS = [roboflow_part, dataset_yaml, names_file_above, labelimg, cvat]


@pytest.mark.parametrize("make", LAYOUTS, ids=lambda make: make.__name__)
def test_names_are_found_and_named(make, tmp_path, caplog):
    (tmp_path / "set").mkdir()
    with caplog.at_level(logging.INFO):
        assert ids_of(read_boxes(make(tmp_path / "set"), LABELS)) == EXPECTED
    assert "classes are matched by the names in" in caplog.text


def test_val_of_the_yaml_file_is_measured_and_train_is_not(tmp_path):
    made = yolo_in(tmp_path / "made")
    for part in ("train", "val"):
        shutil.copytree(made / "images", tmp_path / "images" / part)
        shutil.copytree(made / "labels", tmp_path / "labels" / part)
    text = YAML.replace("../valid/images", "images/val").replace("../train", "images")
    (tmp_path / "data.yaml").write_text(text)
    for data in (tmp_path, tmp_path / "data.yaml"):
        images = read_boxes(data, LABELS)
        assert ids_of(images) == EXPECTED
        assert {image.path.parent.name for image in images} == {"val"}


def test_without_names_the_log_says_that_numbers_count(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        read_boxes(yolo_in(tmp_path / "part"), LABELS)
    assert "has no class names; its class numbers are the model's" in caplog.text


def test_boxes_that_cannot_be_found_are_left_out_and_counted(tmp_path, caplog):
    root = yolo(tmp_path)
    text = root / "labels" / "a.txt"
    text.write_text(text.read_text() + "\n0 0.5 0.5 0 0.1\n" + text.read_text() + "\n")
    assert sorted(len(image.class_ids) for image in read_boxes(root, LABELS)) == [1, 2]
    assert "left out 1 boxes without area and 2 that repeat another" in caplog.text


def test_annotations_beside_images_are_read_as_voc_or_coco(tmp_path):
    for make, folder in ((voc, "Annotations"), (coco, "annotations")):
        root = tmp_path / make.__name__
        root.mkdir()
        make(root)
        if folder == "Annotations":
            (root / "Annotations").rename(root / "annotations")
        images = root / ("JPEGImages" if make is voc else "val")
        images.rename(root / "images")
        assert len(read_boxes(root, LABELS)) == len(TRUTH)
