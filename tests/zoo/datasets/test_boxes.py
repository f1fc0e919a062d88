"""The same boxes as COCO JSON, YOLO folder and Pascal VOC, and errors in such files."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.types import Detections
from pipeline.zoo.datasets.boxes import read_boxes
from pipeline.zoo.datasets.classes import match_names
from pipeline.zoo.evaluation.detection import RECALLS, evaluate_detector

LABELS = ("cat", "motorcycle", "potted plant")
WIDTH, HEIGHT = 200, 100
TRUTH = {  # file name: class id and x y w h in pixels
    "a.png": [(0, (20, 10, 40, 40)), (2, (120, 20, 60, 50))],
    "b.png": [(1, (50, 30, 100, 50))],
}
NAMES = {0: "cat", 1: "motorbike", 2: "pottedplant"}  # names of VOC
VOC_OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>
<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"""


def write_images(folder):
    folder.mkdir(parents=True)
    for name in TRUTH:
        image = np.full((HEIGHT, WIDTH, 3), ord(name[0]), np.uint8)
        cv2.imwrite(str(folder / name), image)


def coco(root):
    write_images(root / "val")
    ids = {0: 17, 1: 4, 2: 64}  # ids of COCO have gaps and another order
    boxes = [
        {"image_id": number, "category_id": ids[c], "bbox": box, "area": 7.0, "iscrowd": 0}
        for number, name in enumerate(TRUTH)
        for c, box in TRUTH[name]
    ]
    content = {
        "images": [
            {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT}
            for number, name in enumerate(TRUTH)
        ],
        "annotations": boxes,
        "categories": [{"id": ids[c], "name": NAMES[c]} for c in NAMES],
    }
    path = root / "annotations/instances_val.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    return path


def yolo(root):
    write_images(root / "images")
    (root / "labels").mkdir()
    for name, boxes in TRUTH.items():
        lines = [
            f"{c} {(x + w / 2) / WIDTH} {(y + h / 2) / HEIGHT} {w / WIDTH} {h / HEIGHT}"
            for c, (x, y, w, h) in boxes
        ]
        (root / f"labels/{name[0]}.txt").write_text("\n".join(lines))
    return root


def voc(root, difficult=0):
    write_images(root / "JPEGImages")
    (root / "Annotations").mkdir()
    for name, boxes in TRUTH.items():
        objects = "".join(
            VOC_OBJECT.format(
                name=NAMES[c], difficult=difficult, x1=x + 1, y1=y + 1, x2=x + w, y2=y + h
            )
            for c, (x, y, w, h) in boxes
        )
        (root / f"Annotations/{name[0]}.xml").write_text(
            f"<annotation><filename>{name}</filename><size><width>{WIDTH}</width>"
            f"<height>{HEIGHT}</height></size>{objects}</annotation>"
        )
    return root


@pytest.mark.parametrize("form", [coco, yolo, voc])
def test_every_format_gives_the_same_boxes(form, tmp_path):
    images = read_boxes(form(tmp_path), LABELS)
    assert [item.path.name for item in images] == list(TRUTH)
    for item in images:
        expected = TRUTH[item.path.name]
        assert item.path.is_file()
        assert item.class_ids.tolist() == [c for c, _ in expected]
        x, y, w, h = np.array([box for _, box in expected], np.float64).T
        centres = np.stack([(x + w / 2) / WIDTH, (y + h / 2) / HEIGHT, w / WIDTH, h / HEIGHT])
        np.testing.assert_allclose(item.boxes, centres.T, atol=1e-12)


@pytest.mark.parametrize("form", [coco, yolo, voc])
def test_images_may_be_in_another_folder(form, tmp_path):
    data = form(tmp_path / "data")
    moved = tmp_path / "elsewhere"
    folder = next(tmp_path.rglob("a.png")).parent
    folder.rename(moved)
    assert {p.path.parent for p in read_boxes(data, LABELS, moved)} == {moved}
    with pytest.raises(InputError):
        read_boxes(data, LABELS, tmp_path / "none")


def test_yolo_folder_may_have_splits(tmp_path):
    """Such as data/images/val/a.png with data/labels/val/a.txt; a split can be selected."""
    data = yolo(tmp_path)
    for kind, suffix in (("images", "png"), ("labels", "txt")):
        for part, name in (("train", "a"), ("val", "b")):
            (data / kind / part).mkdir()
            (data / kind / f"{name}.{suffix}").rename(data / kind / part / f"{name}.{suffix}")
    both = read_boxes(data, LABELS)
    assert [item.class_ids.tolist() for item in both] == [[0, 2], [1]]
    (alone,) = read_boxes(data, LABELS, data / "images/val")
    assert alone.class_ids.tolist() == [1]


def found_boxes(image):
    """The true boxes of an image, by its grey value."""
    name = f"{chr(int(image[0, 0, 0]))}.png"
    boxes = [(x, y, x + w, y + h) for _, (x, y, w, h) in TRUTH[name]]
    return Detections(
        np.array(boxes, np.float32),
        np.full(len(boxes), 0.9, np.float32),
        np.array([c for c, _ in TRUTH[name]], np.int32),
        LABELS,
    )


@pytest.mark.parametrize("form", [coco, yolo, voc])
def test_truth_of_every_format_scores_100_in_every_class(form, tmp_path):
    found = evaluate_detector(found_boxes, read_boxes(form(tmp_path), LABELS))
    assert (found.ap, found.ap50, found.ap75) == pytest.approx((100, 100, 100))
    assert [(c.class_id, c.ap, c.boxes) for c in found.classes] == [
        (class_id, pytest.approx(100), 1) for class_id in range(3)
    ]
    np.testing.assert_allclose(found.precision50, np.ones(len(RECALLS)))


def test_object_sizes_use_the_area_of_coco(tmp_path):
    """Every outline has 7 pixels, so all objects are small."""
    found = evaluate_detector(found_boxes, read_boxes(coco(tmp_path), LABELS))
    assert (found.small, found.medium, found.large) == (pytest.approx(100), None, None)


def test_object_sizes_use_the_boxes_in_other_formats(tmp_path):
    found = evaluate_detector(found_boxes, read_boxes(voc(tmp_path), LABELS))
    assert (found.small, found.medium, found.large) == (None, pytest.approx(100), None)


def test_difficult_objects_are_optional(tmp_path):
    data = voc(tmp_path, difficult=1)
    easy = data / "Annotations/a.xml"
    easy.write_text(easy.read_text().replace("<difficult>1", "<difficult>0"))

    def misses_b(image):
        return found_boxes(image) if image[0, 0, 0] == ord("a") else Detections.empty(LABELS)

    found = evaluate_detector(misses_b, read_boxes(data, LABELS))
    assert found.ap == pytest.approx(100)
    assert [c.class_id for c in found.classes] == [0, 2]


@pytest.mark.parametrize("form", [coco, voc])
def test_unknown_classes_are_named(form, tmp_path):
    with pytest.raises(
        InputError, match=r"2 of its 3 classes are not among the model's 4 labels: "
    ):
        read_boxes(form(tmp_path), ("cat", "dog", "bird", "cup"))


def test_class_number_beyond_the_labels_is_named(tmp_path):
    with pytest.raises(InputError, match=r"a\.txt: expected classes 0 to 1, .*2 labels, but got 2"):
        read_boxes(yolo(tmp_path), LABELS[:2])


def test_names_are_matched_by_name_number_or_order(caplog):
    assert match_names(["Potted_Plant", "CAT"], LABELS, "x") == [2, 0]
    assert match_names(["2", "0"], LABELS, "x") == [2, 0]
    assert match_names(["tabby"], ("background", "cat, tabby"), "x") == [1]
    assert not caplog.records
    assert match_names(["n01", "n02"], ("background", "cat", "dog"), "x") == [1, 2]
    assert "classes are matched by their order" in caplog.text
    with pytest.raises(InputError, match="as the model has 3 labels, but got 3"):
        match_names(["3"], LABELS, "x")
    with pytest.raises(InputError, match="did you mean motorcycle"):
        match_names(["motorcyle"], LABELS, "x")


WRONG = {
    "nothing": (lambda root: root / "none", "expected a COCO JSON file, .*does not exist"),
    "empty-folder": (lambda root: root, "expected a COCO JSON file, .*none of them"),
    "json-no-coco": (lambda root: edit(coco(root), lambda _: "[]"), "expected COCO's JSON"),
    "json-truncated": (lambda root: edit(coco(root), lambda text: text[:90]), "COCO's JSON"),
    "json-without-images": (
        lambda root: edit(
            coco(root), lambda _: '{"images": [], "annotations": [], "categories": []}'
        ),
        "expected images, but it lists none",
    ),
    "box-of-no-image": (
        lambda root: edit(coco(root), lambda text: text.replace('"image_id": 1', '"image_id": 9')),
        "one is of image 9 and category 4",
    ),
    "voc-truncated": (
        lambda root: edit(voc(root) / "Annotations/a.xml", lambda text: text[:90]).parent.parent,
        r"a\.xml: expected Pascal VOC's XML",
    ),
    "voc-without-size": (
        lambda root: (
            edit(
                voc(root) / "Annotations/a.xml", lambda text: text.replace("size>", "sighs>")
            ).parent.parent
        ),
        "<size/width> is missing",
    ),
    "voc-with-entities": (
        lambda root: (
            edit(
                voc(root) / "Annotations/a.xml",
                lambda text: f"<!DOCTYPE x [<!ENTITY a 'a'>]>{text}",
            ).parent.parent
        ),
        "declares no entities",
    ),
    "no-text": (
        lambda root: edit(yolo(root) / "labels/a.txt", lambda _: "\0\1\2").parent.parent,
        "line 1: expected class",
    ),
}


def edit(path, change):
    path.write_text(change(path.read_text()))
    return path


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_damaged_data_is_refused(tmp_path, make, message):
    with pytest.raises(InputError, match=message):
        read_boxes(make(tmp_path), LABELS)


def changed_coco(root, change):
    """A COCO file after `change` of its contents."""
    path = coco(root)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def name_ids(content):
    for image in content["images"]:
        image["id"] = f"image {image['id']}"
    for box in content["annotations"]:
        box.update(image_id=f"image {box['image_id']}", iscrowd=False)


def name_another_machines_paths(content):
    for image in content["images"]:
        image["file_name"] = f"C:\\data\\{image['file_name']}"


OTHER_TOOLS = {
    "ids-that-are-texts": name_ids,
    "paths-of-another-machine": name_another_machines_paths,
    "a-class-without-boxes": lambda content: content["categories"].append({"id": 0, "name": "all"}),
    "no-areas": lambda content: [box.update(area=0) for box in content["annotations"]],
}


@pytest.mark.parametrize("change", OTHER_TOOLS.values(), ids=OTHER_TOOLS)
def test_coco_variants_of_other_tools_are_read(change, tmp_path):
    path = changed_coco(tmp_path, change)
    found = read_boxes(path, LABELS, tmp_path / "val")
    expected = read_boxes(yolo(tmp_path / "yolo"), LABELS)
    for item, other in zip(found, expected, strict=True):
        assert item.path.is_file()
        assert item.class_ids.tolist() == other.class_ids.tolist()
        np.testing.assert_allclose(item.boxes, other.boxes)


def test_coco_file_may_have_a_byte_order_mark(tmp_path):
    path = coco(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_boxes(path, LABELS)) == 2


@pytest.mark.parametrize("box", [(20, 10, -5, 4), (900, 10, 5, 4), (0, 0, 1e300, 1e300)])
def test_impossible_box_is_named(box, tmp_path):
    path = changed_coco(tmp_path, lambda content: content["annotations"][0].update(bbox=box))
    with pytest.raises(
        InputError, match=r"a\.png: expected boxes in its 200 x 100 pixels, but one"
    ):
        read_boxes(path, LABELS)


def test_image_that_is_listed_twice_is_named(tmp_path):
    path = changed_coco(
        tmp_path, lambda content: content["images"].append({**content["images"][0], "id": 9})
    )
    with pytest.raises(InputError, match=r"a\.png is listed 2 times"):
        read_boxes(path, LABELS)


def test_images_with_another_aspect_ratio_than_labelled_give_a_warning(tmp_path, caplog):
    path = changed_coco(tmp_path, lambda content: content["images"][0].update(width=400))
    evaluate_detector(lambda _: Detections.empty(LABELS), read_boxes(path, LABELS))
    assert (
        "1 of 2 images have another aspect ratio than their labels state, for example a.png"
        in caplog.text
    )


def test_voc_file_with_a_wrong_image_name_is_read(tmp_path):
    root = voc(tmp_path)
    for path in (root / "Annotations").iterdir():
        path.write_text(path.read_text().replace("<filename>", "<filename>/before/export_"))
    assert [item.path.name for item in read_boxes(root, LABELS)] == ["a.png", "b.png"]


NAMED_CLASSES = {
    "list": ("data.yaml", "nc: 3\nnames: [potted plant, x, cat]\n"),
    "mapping": ("data.yaml", "names:\n  0: pottedplant\n  1: x\n  2: cat\n"),
    "text": ("classes.txt", "Potted Plant\nx\ncat\n"),
}


@pytest.mark.parametrize(("name", "text"), NAMED_CLASSES.values(), ids=NAMED_CLASSES)
def test_yolo_folder_with_class_names_is_matched_by_name(name, text, tmp_path):
    root = yolo(tmp_path)
    (root / name).write_text(text)
    (root / "labels/b.txt").write_text("")  # class 1 is unknown to the model
    first, second = read_boxes(root, LABELS)
    assert first.class_ids.tolist() == [2, 0]  # ids of potted plant and cat in LABELS
    assert len(second.class_ids) == 0


@pytest.mark.parametrize("text", ["names: 3\n", "nc: 3\n", "[", "names: {7: cat}\n"])
def test_class_names_of_a_yolo_folder_must_be_a_list(text, tmp_path):
    root = yolo(tmp_path)
    (root / "data.yaml").write_text(text)
    with pytest.raises(InputError, match=r"data\.yaml: expected names, a list of the classes"):
        read_boxes(root, LABELS)


@pytest.mark.parametrize("line", ["0 0.5 0.5 -0.05 0.1", "1e300 0.5 0.5 0.1 0.1"])
def test_yolo_line_with_impossible_numbers_is_named(line, tmp_path):
    root = yolo(tmp_path)
    (root / "labels/a.txt").write_text("\ufeff0 0.5 0.5 0.1 0.1\n" + line)
    with pytest.raises(InputError, match=r"a\.txt: line 2: expected class"):
        read_boxes(root, LABELS)


def test_missing_labels_are_reported_before_images_are_read(tmp_path):
    root = yolo(tmp_path)
    for path in (root / "labels").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="none has any"):
        evaluate_detector(lambda image: pytest.fail("asked"), read_boxes(root, LABELS))


def test_known_names_in_another_order_are_not_matched_by_order():
    with pytest.raises(
        InputError, match="1 of its 3 classes are not among the model's 3 labels: x"
    ):
        match_names(["potted plant", "x", "cat"], LABELS, "data")
