"""Models made by others: their manifests are followed, and what does not fit is refused."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import ModelError
from pipeline.inference.classifier import Classifier
from pipeline.inference.detector import Detector
from pipeline.inference.manifest import read_manifest
from pipeline.inference.preprocess import converter
from pipeline.inference.session import open_model
from pipeline.inference.spec import METADATA_KEY, InputSpec, encode_spec

from .foreign import (
    ANCHORS,
    CHANNELS,
    DETECTOR,
    HEIGHT,
    LABELS,
    MANIFEST,
    MEAN,
    SCALE,
    STD,
    WIDTH,
    classifier_graph,
    detector_graph,
    graph,
    head_weights,
)


def detector_of_ours(manifest):
    """The same network as our tools make it: takes pixels, has the rest in graph and metadata."""
    spec = read_manifest(manifest)
    constants = {
        "scale": np.float32(SCALE),
        "mean": np.array(MEAN, np.float32).reshape(1, 3, 1, 1),
        "std": np.array(STD, np.float32).reshape(1, 3, 1, 1),
        "rgb": np.array([2, 1, 0]),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["bgr"], perm=[0, 3, 1, 2]),
        helper.make_node("Gather", ["bgr", "rgb"], ["planes"], axis=1),
        helper.make_node("Mul", ["planes", "scale"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], ["x"]),
        helper.make_node("Conv", ["x", "w", "b"], ["head"], strides=[16, 16]),
    ]
    weights = head_weights() + [numpy_helper.from_array(v, k) for k, v in constants.items()]
    entry = ("image", TensorProto.UINT8, ["N", HEIGHT, WIDTH, 3])
    output = ("head", TensorProto.FLOAT, ["N", CHANNELS, HEIGHT // 16, WIDTH // 16])
    model = graph(nodes, entry, output, weights)
    ours = InputSpec(name="image", width=WIDTH, height=HEIGHT)
    spec = type(spec)(name="ours", task="detect", input=ours, labels=LABELS, head=spec.head)
    helper.set_model_props(model, {METADATA_KEY: encode_spec(spec)})
    return model


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("color", ["RGB", "BGR"])
def test_float_pixels_are_scaled_as_the_manifest_says(image, layout, color):
    spec = InputSpec(
        name="x", width=90, height=50, layout=layout, dtype="float32", color=color,
        scale=SCALE, mean=MEAN, std=STD,
    )  # fmt: skip
    found = converter(spec)(image[None])
    ordered = image[None, :, :, ::-1] if color == "RGB" else image[None]
    expected = (ordered.astype(np.float64) * SCALE - MEAN) / STD
    expected = expected.transpose(0, 3, 1, 2) if layout == "NCHW" else expected
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("layout", "color"), [("NCHW", "BGR"), ("NCHW", "RGB"), ("NHWC", "RGB")])
def test_uint8_pixels_are_only_rearranged(image, layout, color):
    found = converter(InputSpec(name="x", width=9, height=5, layout=layout, color=color))(
        image[None]
    )
    ordered = image[None, :, :, ::-1] if color == "RGB" else image[None]
    expected = ordered.transpose(0, 3, 1, 2) if layout == "NCHW" else ordered
    np.testing.assert_array_equal(found, expected)
    assert found.flags.c_contiguous


def test_pixels_for_our_own_networks_are_not_converted():
    assert converter(InputSpec(name="x", width=9, height=5)) is None


@pytest.mark.parametrize("batch", ["N", 1], ids=["any-batch", "one-at-a-time"])
def test_a_foreign_classifier_classifies_boxes(files, batch):
    model, manifest = files(classifier_graph(batch))
    classify = Classifier(model, manifest=manifest, top=1)
    image = np.zeros((100, 100, 3), np.uint8)
    image[:, :50, 2] = 255  # red on the left, blue on the right
    image[:, 50:, 0] = 255
    boxes = np.array([[0, 0, 40, 40], [60, 0, 100, 40], [0, 60, 40, 100]], np.float32)
    names = [classify.labels[i] for i in classify(image, boxes).ids[:, 0]]
    assert names == ["cat", "cup", "cat"]


def test_a_foreign_detector_finds_what_the_same_one_of_ours_does(files, tmp_path, image):
    model, manifest = files(detector_graph(), ANCHORS + DETECTOR)
    onnx.save(detector_of_ours(manifest), tmp_path / "ours.onnx")
    settings = {"score_threshold": 0.05, "multi_label": True}
    foreign = Detector(model, manifest=manifest, **settings)
    foreign.use_threads(1)
    found, expected = foreign(image), Detector(tmp_path / "ours.onnx", **settings)(image)
    assert len(expected) > 3
    np.testing.assert_array_equal(found.class_ids, expected.class_ids)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


def test_the_letterbox_of_a_manifest_is_used(files, image):
    model, manifest = files(detector_graph(), ANCHORS + DETECTOR)
    manifest.write_text(manifest.read_text().replace("[input]", '[input]\nfit = "letterbox"'))
    pixels = Detector(model, manifest=manifest).prepare(image).pixels[0]
    inner = round(90 * HEIGHT / 50)
    left = (WIDTH - inner) // 2
    np.testing.assert_array_equal(
        pixels[:, left : left + inner], cv2.resize(image, (inner, HEIGHT))
    )
    assert (pixels[:, :left] == 127).all()


MISFITS = {
    "size": ("width = 64", "width = 60", r"expected input x .* \[N, 3, 32, 60\], but .*3, 32, 64"),
    "layout": ('"NCHW"', '"NHWC"', r"expected input x tensor\(float\) \[N, 32, 64, 3\], but the"),
    "labels": ('"cat", ', "", r"expected output y tensor\(float\) \[N, 2\] for 2 labels, but the"),
    "name": ("[input]", '[input]\nname = "z"', r"expected input z .*but the graph has x tensor"),
    "output": ("[input]", 'logits = "z"\n[input]', r"expected output z .*but the graph has y "),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit_its_manifest_is_refused(files, old, new, message):
    model, manifest = files(classifier_graph(), MANIFEST.replace(old, new))
    with pytest.raises(ModelError, match=message):
        Classifier(model, manifest=manifest)


def test_an_output_of_unknown_size_is_tried_out(files):
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Compress", ["mean", "wanted"], ["y"], axis=1),
    ]
    wanted = numpy_helper.from_array(np.array([True, True, True]), "wanted")
    entry = ("x", TensorProto.FLOAT, ["N", 3, HEIGHT, WIDTH])
    output = ("y", TensorProto.FLOAT, ["N", "classes"])
    model, manifest = files(graph(nodes, entry, output, [wanted]))
    assert Classifier(model, manifest=manifest, top=1).labels == LABELS
    manifest.write_text(MANIFEST.replace('"cat", ', ""))
    with pytest.raises(
        ModelError, match=r"expected output y .* for 2 labels, but it gives \[1, 3\]"
    ):
        Classifier(model, manifest=manifest, top=1)


def test_uint8_pixels_for_a_float_network_are_refused(files):
    text = "\n".join(line for line in MANIFEST.splitlines() if line.split(" ")[0] not in
                     ("dtype", "scale", "mean", "std"))  # fmt: skip
    model, manifest = files(classifier_graph(), text)
    with pytest.raises(ModelError, match=r"expected input x tensor\(uint8\) .*x tensor\(float\)"):
        Classifier(model, manifest=manifest)


def test_a_fixed_batch_of_more_than_one_is_refused(files):
    model, manifest = files(classifier_graph(4))
    with pytest.raises(ModelError, match="takes 4 at once; export the model with a batch of 1"):
        Classifier(model, manifest=manifest)


WRONG = {
    "no-toml": ("task = ", "not valid TOML"),
    "no-such-key": (MANIFEST.replace("scale", "scales"), "unknown field `scales`"),
    "no-width": (MANIFEST.replace("width = 64", ""), "missing required field `width`"),
    "negative-std": (MANIFEST.replace("[0.5, ", "[-0.5, "), "Expected `float` > 0"),
    "mask-without-anchors": (DETECTOR, "picks some of no anchors"),
    "mask-too-high": (
        ANCHORS + DETECTOR.replace("[1, 2]", "[1, 3]"),
        r"picks some of 3 anchors, but got \[1, 3\]",
    ),
    "mask-negative": (ANCHORS + DETECTOR.replace("[1, 2]", "[-1]"), "picks some of 3 anchors"),
    "no-heads": (
        MANIFEST.replace("classify", "detect"),
        "a head, or heads, must be given for a detector",
    ),
    "labels-file-missing": (
        MANIFEST.replace('["cat", "dog", "cup"]', '"none.txt"'),
        "labels .*none.txt: cannot be read",
    ),
    "infinite-mean": (MANIFEST.replace("[0.1, ", "[inf, "), "must be finite numbers"),
    "scaled-bytes": (MANIFEST.replace("float32", "uint8"), "need an input of float32"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_an_invalid_manifest_is_refused(tmp_path, text, message):
    path = tmp_path / "m.toml"
    path.write_text(text)
    with pytest.raises(ModelError, match=rf"m\.toml.*{message}"):
        read_manifest(path)


def test_labels_can_be_in_a_file_beside_the_manifest(tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\ncup\n\n")
    path = tmp_path / "m.toml"
    path.write_text(MANIFEST.replace('["cat", "dog", "cup"]', '"names.txt"'))
    assert read_manifest(path).labels == LABELS


def test_a_model_without_a_description_is_refused_with_its_hash(files):
    model, _ = files(classifier_graph())
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    with pytest.raises(ModelError, match=f"{digest}; describe it with --manifest"):
        open_model(model)


def outside(location, where="initializer"):
    """A graph with a tensor whose values are in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    model = classifier_graph()
    if where == "initializer":
        model.graph.initializer.append(tensor)
    elif where == "attribute":
        model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    else:
        inner = helper.make_graph([], "inner", [], [], [tensor])
        model.graph.node.append(
            helper.make_node("If", ["y"], [], then_branch=inner, else_branch=inner)
        )
    return model


@pytest.mark.parametrize("where", ["initializer", "attribute", "branch"])
@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../b"])
def test_weights_outside_the_folder_of_the_model_are_refused(files, where, location):
    model, manifest = files(outside(location, where))
    with pytest.raises(ModelError, match=f"its weights lie in {location}, outside of its own"):
        Classifier(model, manifest=manifest)


def test_a_link_to_weights_outside_the_folder_is_refused(files, tmp_path):
    model, manifest = files(outside("weights.bin"))
    (tmp_path / "weights.bin").symlink_to("/etc/hostname")
    with pytest.raises(ModelError, match=r"weights\.bin, outside of its own folder"):
        Classifier(model, manifest=manifest)


def test_weights_beside_the_model_are_used(files, tmp_path):
    model, manifest = files(detector_graph(), ANCHORS + DETECTOR)
    loaded = onnx.load(model)
    onnx.save_model(
        loaded, model, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    assert (tmp_path / "weights.bin").stat().st_size > 1000
    assert Detector(model, manifest=manifest).labels == LABELS


@pytest.mark.parametrize("content", [b"", b"words", b"location" * 9], ids=["empty", "text", "mark"])
def test_a_file_that_is_no_model_is_refused(tmp_path, content):
    (tmp_path / "no.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"no\.onnx: not a usable ONNX model"):
        open_model(tmp_path / "no.onnx")


def test_top_is_at_most_the_number_of_classes(files, image):
    model, manifest = files(classifier_graph())
    found = Classifier(model, manifest=manifest)(image, np.array([[0, 0, 9, 9]], np.float32))
    assert sorted(found.ids[0].tolist()) == [0, 1, 2]


def test_an_input_without_a_shape_has_that_of_the_manifest(files, image):
    graph_without = classifier_graph()
    graph_without.graph.input[0].type.tensor_type.ClearField("shape")
    model, manifest = files(graph_without)
    assert len(Classifier(model, manifest=manifest)(image, np.zeros((3, 4), np.float32)).ids) == 3


def test_outputs_of_a_softmax_are_warned_of_once(files, caplog):
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Softmax", ["mean"], ["y"]),
    ]
    entry = ("x", TensorProto.FLOAT, ["N", 3, HEIGHT, WIDTH])
    model, manifest = files(graph(nodes, entry, ("y", TensorProto.FLOAT, ["N", 3])))
    for _ in range(2):
        Classifier(model, manifest=manifest)
    assert caplog.text.count("add up to 1, as after a softmax, but logits are expected") == 1


UNKNOWN = {
    "key": ("width", "widht", "known are: name, width, height, "),
    "key-above": ("labels", "lables", "known are: version, name, task, input, labels, "),
    "value": ("NCHW", "nchw", "expected one of: NCHW, NHWC"),
}


@pytest.mark.parametrize(("right", "wrong", "known"), UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_key_or_value_is_answered_with_the_valid_ones(tmp_path, right, wrong, known):
    path = tmp_path / "m.toml"
    path.write_text(MANIFEST.replace(right, wrong))
    with pytest.raises(ModelError, match=rf"{wrong}.*; {known}"):
        read_manifest(path)


def test_anchors_that_no_head_picks_from_are_refused(tmp_path):
    path = tmp_path / "m.toml"
    path.write_text(ANCHORS + MANIFEST)
    with pytest.raises(ModelError, match="anchors are for heads with a mask, but none has one"):
        read_manifest(path)
