"""Parameters of the nodes that are settings of the pipeline, too."""

from __future__ import annotations

import pytest

from nodes.parameters import parameters_of_settings
from pipeline.errors import ConfigError
from pipeline.settings import SETTINGS

NODES = ("vision_node", "camera_node", "detector_node", "classifier_node")


def parameters_of(node):
    return {parameter.name: parameter for parameter in parameters_of_settings(node)}


def test_score_threshold_has_the_default_range_and_help_of_the_setting():
    score = parameters_of("detector_node")["score_threshold"]
    setting = SETTINGS["score"]
    assert (score.default, score.description) == (setting.default, setting.about.help)
    (limits,) = score.descriptor().floating_point_range
    assert (limits.from_value, limits.to_value) == (setting.range.ge, setting.range.le)
    assert score.changeable


def test_every_parameter_of_a_setting_belongs_to_a_node():
    declared = {name for node in NODES for name in parameters_of(node)}
    assert declared == {one.about.ros for one in SETTINGS.values() if one.about.ros}
    assert "score_threshold" not in parameters_of("camera_node")
    assert "source" not in parameters_of("detector_node")


def test_zero_and_empty_stand_for_an_unset_value():
    parameters = parameters_of("vision_node")
    assert (parameters["threads"].default, parameters["fps"].default) == (0, 0.0)
    assert parameters["fourcc"].default == ""
    assert parameters["threads"].description.endswith("; 0: all cores")
    for name in ("threads", "fps", "fourcc", "source"):
        parameters[name].check(parameters[name].default)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("score_threshold", 1.5),
        ("score_threshold", float("nan")),
        ("open_timeout", 0.0),
        ("top", 0),
        ("nms_kind", "soft"),
        ("fourcc", "MJPEG"),
    ],
)
def test_error_names_the_parameter_with_a_bad_value(name, value):
    with pytest.raises(ConfigError, match=f"^{name}"):
        parameters_of("vision_node")[name].check(value)
