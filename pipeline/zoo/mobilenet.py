"""MobileNetV2 1.0 as an ONNX graph, from a PyTorch state dict of its convolutions.

Architecture: Sandler et al., arXiv 1801.04381, table 2. Batch norm is folded into the convolutions,
and so is what ImageNet training does to pixels: scale, mean, standard deviation and colour order.
The graph takes the camera's pixels as they are, uint8 BGR [N, 224, 224, 3].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import DependencyError, ModelError

if TYPE_CHECKING:
    import onnx

INPUT_SIZE = 224
FEATURES = 1280
IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of red, green and blue over ImageNet, for pixels scaled to [0, 1]."""
IMAGENET_STD = (0.229, 0.224, 0.225)

_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
           (6, 320, 1, 1))  # fmt: skip
"""Expansion, output channels, repeats and first stride of each stage (the paper's t, c, n, s)."""
_STEM_CHANNELS = 32
_BATCH_NORM_EPSILON = 1e-5
_OPSET = 17
_IR_VERSION = 8

Float = npt.NDArray[np.float32]
State = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Convolution:
    """A convolution with its batch norm folded in; `padding` is the kernel's half width."""

    name: str
    weight: Float
    bias: Float
    stride: int
    groups: int
    relu6: bool

    @property
    def padding(self) -> int:
        return self.weight.shape[-1] // 2


@dataclass(frozen=True)
class Block:
    """Convolutions in a row; `residual` adds the block's input to its output."""

    convolutions: tuple[Convolution, ...]
    residual: bool


def read_blocks(state: State) -> list[Block]:
    """The backbone of MobileNetV2 1.0 from `state`, batch norm folded, pixels not yet.

    Raises `ModelError` where a tensor is missing or of another shape.
    """
    stem = _fold(state, "features.0.0", "features.0.1", (_STEM_CHANNELS, 3, 3, 3), stride=2)
    blocks = [Block((stem,), residual=False)]
    channels = _STEM_CHANNELS
    for expansion, out, repeats, first_stride in _STAGES:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            prefix = f"features.{len(blocks)}.conv"
            blocks.append(_read_bottleneck(state, prefix, channels, out, expansion, stride))
            channels = out
    last = f"features.{len(blocks)}"
    head = _fold(state, f"{last}.0", f"{last}.1", (FEATURES, channels, 1, 1))
    return [*blocks, Block((head,), residual=False)]


def _read_bottleneck(
    state: State, prefix: str, channels: int, out: int, expansion: int, stride: int
) -> Block:
    """An inverted residual: expand (unless the factor is 1), depthwise 3x3, project linearly."""
    hidden = channels * expansion
    index = 0
    convolutions = []
    if expansion != 1:
        shape = (hidden, channels, 1, 1)
        convolutions.append(_fold(state, f"{prefix}.0", f"{prefix}.1", shape))
        index = 3
    convolutions.append(
        _fold(state, f"{prefix}.{index}", f"{prefix}.{index + 1}", (hidden, 1, 3, 3),
              stride=stride, groups=hidden)
    )  # fmt: skip
    index += 3
    convolutions.append(
        _fold(state, f"{prefix}.{index}", f"{prefix}.{index + 1}", (out, hidden, 1, 1), relu6=False)
    )
    return Block(tuple(convolutions), residual=stride == 1 and channels == out)


def _fold(
    state: State, conv: str, norm: str, shape: tuple[int, ...], *,
    stride: int = 1, groups: int = 1, relu6: bool = True,
) -> Convolution:  # fmt: skip
    """Fold batch norm into its convolution (arXiv 1502.03167, inference form)."""
    weight = _tensor(state, f"{conv}.weight", shape)
    gamma, beta, mean, variance = (
        _tensor(state, f"{norm}.{part}", shape[:1])
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    factor = gamma / np.sqrt(variance + _BATCH_NORM_EPSILON)
    return Convolution(
        name=conv,
        weight=(weight * factor[:, None, None, None]).astype(np.float32),
        bias=(beta - mean * factor).astype(np.float32),
        stride=stride,
        groups=groups,
        relu6=relu6,
    )


def _tensor(state: State, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    if name not in state:
        raise ModelError(f"MobileNetV2 weights: expected a tensor '{name}', but there is none")
    if state[name].shape != shape:
        raise ModelError(
            f"MobileNetV2 weights: expected '{name}' of shape {shape}, but got {state[name].shape}"
        )
    return state[name].astype(np.float64)


def fold_pixels(stem: Convolution) -> Convolution:
    """The stem for four channels: raw blue, green, red and a constant 255.

    Normalising is (pixel / 255 - mean) / std. The mean cannot go into the bias: the network pads
    with zeros after normalising, so at the border the mean must be absent from the padded taps. A
    fourth channel that is 255 inside the picture and 0 in the padding carries it exactly.
    """
    mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    scaled = stem.weight.astype(np.float64) / std[:, None, None]
    offset = -(scaled * mean[:, None, None]).sum(axis=1, keepdims=True)
    weight = np.concatenate([scaled[:, ::-1], offset], axis=1) / 255.0
    return Convolution(
        stem.name, weight.astype(np.float32), stem.bias, stem.stride, stem.groups, stem.relu6
    )


def build_mobilenet(state: State, head: tuple[Float, Float] | None = None) -> onnx.ModelProto:
    """The network from uint8 pixels to `features` [N, 1280], or with a `head` to `logits`.

    `head` is a weight (classes, 1280) and a bias (classes,), float32; the output is then
    `logits` [N, classes]. Raises `ModelError` where `state` does not fit, `DependencyError`
    without the onnx package.
    """
    try:
        import onnx  # noqa: PLC0415  (an extra, needed only to build models)
    except ImportError as error:
        raise DependencyError(
            "onnx: needed to build models, but not installed; pip install 'vision[convert]'"
        ) from error
    blocks = read_blocks(state)
    blocks[0] = Block((fold_pixels(blocks[0].convolutions[0]),), residual=False)
    graph = _GraphWriter(onnx)
    output, width = graph.network(blocks, head)
    value = onnx.helper.make_tensor_value_info
    return onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "mobilenetv2",
            [value("image", onnx.TensorProto.UINT8, ["N", INPUT_SIZE, INPUT_SIZE, 3])],
            [value(output, onnx.TensorProto.FLOAT, ["N", width])],
            graph.initializers,
        ),
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="vision",
    )


class _GraphWriter:
    """Collects nodes and initializers; every method returns the name of the tensor it made."""

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def network(self, blocks: list[Block], head: tuple[Float, Float] | None) -> tuple[str, int]:
        tensor = self._pixels()
        for index, block in enumerate(blocks):
            tensor = self._block(tensor, block, f"block{index}")
        tensor = self._node("GlobalAveragePool", [tensor], "pool")
        if head is None:
            return self._node("Flatten", [tensor], "features"), FEATURES
        tensor = self._node("Flatten", [tensor], "flat")
        weight = self._constant("head.weight", head[0])
        bias = self._constant("head.bias", head[1])
        return self._node("Gemm", [tensor, weight, bias], "logits", transB=1), len(head[1])

    def _pixels(self) -> str:
        """Channels first, the constant channel behind them, then float."""
        tensor = self._node("Transpose", ["image"], "channels_first", perm=[0, 3, 1, 2])
        pads = self._constant("inside.pads", np.array([0, 0, 0, 0, 0, 1, 0, 0], np.int64))
        inside = self._constant("inside.value", np.array(255, np.uint8))
        tensor = self._node("Pad", [tensor, pads, inside], "pixels")
        return self._node("Cast", [tensor], "pixels_float", to=self._onnx.TensorProto.FLOAT)

    def _block(self, tensor: str, block: Block, name: str) -> str:
        entry = tensor
        for index, convolution in enumerate(block.convolutions):
            tensor = self._convolution(tensor, convolution, f"{name}.{index}")
        return self._node("Add", [entry, tensor], f"{name}.sum") if block.residual else tensor

    def _convolution(self, tensor: str, convolution: Convolution, name: str) -> str:
        weight = self._constant(f"{name}.weight", convolution.weight)
        bias = self._constant(f"{name}.bias", convolution.bias)
        tensor = self._node(
            "Conv",
            [tensor, weight, bias],
            f"{name}.conv",
            kernel_shape=list(convolution.weight.shape[2:]),
            strides=[convolution.stride] * 2,
            pads=[convolution.padding] * 4,
            group=convolution.groups,
        )
        if not convolution.relu6:
            return tensor
        if not any(tensor.name == "zero" for tensor in self.initializers):
            self._constant("zero", np.array(0, np.float32))
            self._constant("six", np.array(6, np.float32))
        return self._node("Clip", [tensor, "zero", "six"], f"{name}.relu6")

    def _constant(self, name: str, array: npt.NDArray[Any]) -> str:
        # Copied: a reversed view has negative strides, which the protobuf writer cannot take.
        self.initializers.append(self._onnx.numpy_helper.from_array(array.copy(), name))
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(
            self._onnx.helper.make_node(kind, inputs, [output], name=output, **attributes)
        )
        return output


def blocks_of(blocks: list[Block]) -> Iterator[Convolution]:
    """All convolutions in the order in which they run."""
    for block in blocks:
        yield from block.convolutions
