"""Drawing: the input is not changed, and labels stay inside the image."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import OutputError
from pipeline.output import drawing
from pipeline.output.drawing import annotated, class_color, draw
from pipeline.types import Detections, Frame, Header, Image, Result

from .conftest import LABELS, make_result

SIZES = [(160, 120), (640, 480), (1280, 720), (3840, 2160), (120, 900), (1, 1), (7, 3)]


def one_box(
    box: tuple[float, float, float, float], size: tuple[int, int], label: str = "cat"
) -> Result:
    detections = Detections(
        np.array([box], np.float32), np.array([0.5], np.float32), np.zeros(1, np.int32), (label,)
    )
    image = np.full((size[1], size[0], 3), 90, np.uint8)
    return Result(Header("front", 0, 0, *size), detections, frame=Frame(image, 0, 0, "front"))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_draw_changes_only_the_copy(size: tuple[int, int]) -> None:
    result = make_result(5, size=size)
    assert result.image is not None
    before = result.image.copy()
    drawn = draw(result.image, result)
    np.testing.assert_array_equal(result.image, before)
    assert drawn.shape == before.shape
    assert drawn.flags.writeable
    assert not np.array_equal(drawn, before)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_nothing_is_drawn_outside_the_image(size: tuple[int, int]) -> None:
    """The image lies inside a larger array whose margin must not change."""
    width, height = size
    canvas = np.full((height + 40, width + 40, 3), 77, np.uint8)
    out = canvas[20 : 20 + height, 20 : 20 + width]
    result = make_result(30, size=size)
    assert result.image is not None
    assert draw(result.image, result, out=out) is out
    margin = np.ones(canvas.shape[:2], bool)
    margin[20 : 20 + height, 20 : 20 + width] = False
    assert (canvas[margin] == 77).all()


def test_out_of_another_shape_is_refused() -> None:
    result = make_result()
    assert result.image is not None
    with pytest.raises(ValueError, match=r"out must have shape \(240, 320, 3\)"):
        draw(result.image, result, out=np.empty((10, 10, 3), np.uint8))


def test_frame_without_objects_is_a_plain_copy() -> None:
    result = make_result(0)
    assert result.image is not None
    np.testing.assert_array_equal(draw(result.image, result), result.image)


def test_box_is_drawn_at_its_coordinates() -> None:
    result = one_box((60, 80, 140, 180), (200, 200))
    assert result.image is not None
    drawn = draw(result.image, result)
    color = np.array(class_color(0))
    for x, y in ((60, 130), (140, 130), (100, 180), (100, 80)):
        np.testing.assert_array_equal(drawn[y, x], color)
    assert (drawn[90:170, 70:130] == 90).all()


def test_boxes_scale_with_the_image() -> None:
    result = one_box((60, 80, 140, 180), (200, 200))
    drawn = draw(np.full((400, 400, 3), 90, np.uint8), result)
    np.testing.assert_array_equal(drawn[260, 120], class_color(0))
    assert (drawn[200:340, 140:260] == 90).all()


@given(
    corners=st.tuples(*[st.floats(width=32, allow_nan=True, allow_infinity=True)] * 4),
    size=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    label=st.text(max_size=30),
)
def test_any_box_and_any_label_can_be_drawn(
    corners: tuple[float, float, float, float], size: tuple[int, int], label: str
) -> None:
    result = one_box(corners, size, label)
    assert result.image is not None
    assert draw(result.image, result).shape == result.image.shape


@pytest.mark.parametrize("size", [(320, 240), (1280, 720)], ids=str)
@pytest.mark.parametrize("corner", ["top-left", "top-right", "bottom-left", "bottom-right"])
def test_label_of_a_box_in_a_corner_is_whole(size: tuple[int, int], corner: str) -> None:
    """As many pixels of the label's text are seen in a corner as in the middle."""
    width, height = size
    left, top = "left" in corner, "top" in corner
    x, y = (0, width - 40) if not left else (0, 0), 0 if top else height - 30
    box = (0.0, float(y), 40.0, y + 29.0) if left else (x[1], y, x[1] + 39, y + 29)
    middle = (width / 2 - 20, height / 2 - 15, width / 2 + 20, height / 2 + 15)

    def letters(at: tuple[float, ...]) -> int:
        result = one_box(at, size, "cat")  # type: ignore[arg-type]
        assert result.image is not None
        return int((draw(result.image, result).max(axis=2) < 60).sum())

    assert letters(box) == pytest.approx(letters(middle), rel=0.15)


@pytest.mark.parametrize("size", [(160, 120), (640, 480), (3840, 2160)], ids=str)
def test_text_is_large_enough_to_read(size: tuple[int, int]) -> None:
    """A capital is at least 6 pixels high, and at least one part in 80 of the image."""
    width, height = size
    result = one_box((width * 0.3, height * 0.5, width * 0.7, height * 0.9), size, "HHHH")
    assert result.image is not None
    drawn = draw(result.image, result)
    rows = np.nonzero((drawn.max(axis=2) < 60).any(axis=1))[0]
    capital = rows.max() - rows.min() + 1
    assert capital >= max(6, height / 80)


def test_labels_of_separate_boxes_do_not_overlap() -> None:
    boxes = np.array([[20, 100 + 60 * i, 300, 140 + 60 * i] for i in range(5)], np.float32)
    areas = placed(boxes)
    for i, a in enumerate(areas):
        for b in areas[i + 1 :]:
            assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])


def test_labels_of_the_same_box_do_not_overlap() -> None:
    first, second = placed(np.array([[100, 200, 400, 400]] * 2, np.float32))
    assert first != second
    assert min(first[3], second[3]) <= max(first[1], second[1])


def placed(boxes: np.ndarray) -> list[tuple[int, int, int, int]]:
    count = len(boxes)
    detections = Detections(
        boxes, np.full(count, 0.5, np.float32), np.zeros(count, np.int32), LABELS
    )
    result = Result(Header("front", 0, 0, 640, 480), detections)
    whole = drawing._pixel_boxes(result, 640, 480)
    style = drawing._Style.of(640, 480)
    labels = drawing._place(drawing._texts(result), whole, result, style, (640, 480))
    return [label.box for label in labels]


def test_long_names_are_shortened_to_the_width_of_the_image() -> None:
    style = drawing._Style.of(160, 120)
    text = drawing._shorten("a name much too long for such an image", style, 100)
    assert text.endswith("...")
    assert drawing._text_width(text, style) <= 100


def test_colors_are_bright_and_differ_between_the_classes_of_coco() -> None:
    colors = [class_color(number) for number in range(80)]
    assert len(set(colors)) == 80
    assert all(max(color) == 255 for color in colors)
    neighbours = np.abs(np.diff(np.array(colors), axis=0)).max(axis=1)
    assert (neighbours > 60).all()


def test_text_contrasts_with_every_color() -> None:
    """The contrast of WCAG 2, which asks for 3 to 1 of large letters."""

    def luminance(color: tuple[int, int, int]) -> float:
        linear = [
            c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
            for c in (value / 255 for value in color)
        ]
        return 0.0722 * linear[0] + 0.7152 * linear[1] + 0.2126 * linear[2]

    for number in range(200):
        color = class_color(number)
        pair = sorted((luminance(color), luminance(drawing._text_color(color))))
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 3


@pytest.mark.parametrize(
    ("text", "drawable"),
    [("Käse\n1", "Kase 1"), ("猫", "?"), ("cup", "cup"), ("Crème brûlée", "Creme brulee")],
)
def test_text_for_an_ascii_font(text: str, drawable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_UNICODE", False)
    assert drawing._drawable.__wrapped__(text) == drawable


def test_same_result_is_drawn_once_for_several_outputs() -> None:
    result = make_result()
    assert annotated(result) is annotated(result)
    assert not annotated(result).flags.writeable
    np.testing.assert_array_equal(annotated(result), draw(result.image, result))  # type: ignore[arg-type]


def test_two_threads_get_the_same_drawing() -> None:
    both_ready = threading.Barrier(2)

    def get(result: Result) -> Image:
        both_ready.wait(30)
        return annotated(result)

    with ThreadPoolExecutor(2) as threads:
        for seed in range(20):
            result = make_result(30, seed=seed)
            first, second = threads.map(get, [result, result])
            assert first is second


def test_result_without_its_image_cannot_be_drawn() -> None:
    full = make_result()
    bare = Result(full.header, full.detections)
    with pytest.raises(OutputError, match="front: frame 0 came without its image"):
        annotated(bare)


def test_drawing_does_not_depend_on_earlier_drawings() -> None:
    first = make_result(6, seed=1)
    assert first.image is not None
    once = draw(first.image, first)
    draw(cv2.resize(first.image, (640, 480)), make_result(9, seed=2))
    np.testing.assert_array_equal(draw(first.image, first), once)
