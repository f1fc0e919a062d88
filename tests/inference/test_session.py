"""How models are opened: provider and threads."""

from __future__ import annotations

import onnxruntime as ort
import pytest

from pipeline import Classifier, Detector, Runtime
from pipeline.errors import ModelError
from pipeline.inference.session import CPU, available_threads

OTHER = [provider for provider in ort.get_available_providers() if provider != CPU]


@pytest.mark.skipif(not OTHER, reason="this ONNX Runtime has the CPU provider only")
@pytest.mark.parametrize("kind", [Detector, Classifier])
def test_the_provider_stays_if_the_number_of_threads_changes(kind):
    step = kind(runtime=Runtime(OTHER[-1], threads=1))
    step.use_threads(2)
    assert step.model.runtime == Runtime(OTHER[-1], threads=2)
    assert step.model.session.get_providers()[0] == OTHER[-1]


def test_threads_win_over_those_of_the_runtime():
    assert Classifier(threads=2, runtime=Runtime(threads=1)).model.threads == 2
    assert Classifier(runtime=Runtime(threads=1)).model.threads == 1
    assert Classifier().model.threads == available_threads()


def test_a_provider_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ModelError, match=f"provider NoneSuch: not in this .*{CPU}"):
        Detector(runtime=Runtime("NoneSuch"))
