"""The processor's features."""

from __future__ import annotations

import platform

import pytest

from pipeline.inference.processor import adds_int8_in_16_bits, processor


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the features are those of x86-64")
def test_every_x86_processor_of_64_bits_has_sse2():
    assert "sse2" in processor().features
    assert processor().name


@pytest.mark.parametrize(
    ("features", "overflows"),
    [
        ("sse2 avx2", True),
        ("sse2 ssse3", True),
        ("sse2 avx2 avx512f", True),
        ("sse2 avx2 avx_vnni", False),
        ("sse2 avx512f avx512_vnni", False),
        ("asimd asimddp", False),
        ("", False),
    ],
    ids=["avx2", "sse", "avx512", "avx-vnni", "avx512-vnni", "arm", "unknown"],
)
def test_only_x86_before_vnni_adds_int8_products_in_16_bits(features, overflows):
    assert adds_int8_in_16_bits(frozenset(features.split())) is overflows
