"""Equalisation of a float MobileNetV2, which keeps its outputs and makes int8 more accurate.

The channels of one tensor share one scale, so they should have similar peaks (Nagel et al., arXiv
1906.04721).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.zoo.onnx_file import ModelProto, open_with_outputs
from pipeline.zoo.quantization.calibration import Batch
from recipes.mobilenet_v2 import Block, Convolution, build_mobilenet

Float = npt.NDArray[np.float32]

_DEPTHWISE_SHARE = 1.0  # free, as every depthwise channel has a weight scale of its own
_LINEAR_SHARE = 0.5  # a compromise between even activations and even weights after them
_SMALLEST_PEAK = 1e-4


def equalize(blocks: Sequence[Block], batches: Sequence[Batch]) -> list[Block]:
    """Return blocks whose channels have similar peaks on `batches`, with the same outputs.

    Before a depthwise convolution, channels are only scaled up, to the largest peak. They do not
    reach the limit of ReLU6 before the largest one, so images like those of `batches` have the
    same outputs; in tensors without ReLU6 the change is exact.
    """
    peaks = _channel_peaks(build_mobilenet(blocks), _outputs(blocks), batches)
    return _equalize_linear(_equalize_depthwise(list(blocks), peaks), peaks)


def _outputs(blocks: Sequence[Block]) -> list[str]:
    """Return the tensors to equalise: before depthwise convolutions and between blocks."""
    names = ["stem.output"]
    for index, block in enumerate(blocks[1:-1], start=1):
        names.append(_block_output(blocks, index))
        if len(block.convolutions) > 2:
            names.append(f"block{index}.0.relu6")
    return names


def _block_output(blocks: Sequence[Block], index: int) -> str:
    last = len(blocks[index].convolutions) - 1
    return f"block{index}.sum" if blocks[index].residual else f"block{index}.{last}.conv"


def _equalize_depthwise(blocks: list[Block], peaks: dict[str, Float]) -> list[Block]:
    result = [list(block.convolutions) for block in blocks]
    factors = _factors(peaks["stem.output"], _DEPTHWISE_SHARE)
    result[0][0] = result[0][0].scale_output(factors)
    result[1][0] = result[1][0].scale_input(factors)
    for index, parts in enumerate(result):
        if f"block{index}.0.relu6" in peaks:
            factors = _factors(peaks[f"block{index}.0.relu6"], _DEPTHWISE_SHARE)
            parts[0], parts[1] = parts[0].scale_output(factors), parts[1].scale_input(factors)
    return _rebuilt(blocks, result)


def _equalize_linear(blocks: list[Block], peaks: dict[str, Float]) -> list[Block]:
    """Equalise between blocks; blocks that are joined by sums share one set of factors."""
    result = [list(block.convolutions) for block in blocks]
    for group in _joined(blocks):
        peak = np.max([peaks[_block_output(blocks, index)] for index in group], axis=0)
        factors = _factors(peak, _LINEAR_SHARE)
        for index in group:
            result[index][-1] = result[index][-1].scale_output(factors)
            result[index + 1][0] = result[index + 1][0].scale_input(factors)
    return _rebuilt(blocks, result)


def _joined(blocks: Sequence[Block]) -> list[list[int]]:
    """Return the indices of inverted residuals in groups that are joined by sums."""
    groups: list[list[int]] = []
    for index, block in enumerate(blocks[1:-1], start=1):
        if block.residual:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _rebuilt(blocks: Iterable[Block], parts: Iterable[list[Convolution]]) -> list[Block]:
    return [Block(tuple(p), b.residual) for b, p in zip(blocks, parts, strict=True)]


def _factors(peaks: Float, share: float) -> Float:
    peaks = np.maximum(peaks, _SMALLEST_PEAK)
    return np.asarray((peaks.max() / peaks) ** share, np.float32)


def _channel_peaks(
    model: ModelProto, names: list[str], batches: Sequence[Batch]
) -> dict[str, Float]:
    """Return the largest magnitude of each channel of the named tensors [N, C, H, W]."""
    session = open_with_outputs(model, names)
    peaks: dict[str, Float] = {}
    for batch in batches:
        for name, values in zip(names, session.run(names, {"image": batch}), strict=True):
            found = np.abs(values).max(axis=(0, 2, 3))
            peaks[name] = np.maximum(peaks.get(name, found), found)
    return peaks
