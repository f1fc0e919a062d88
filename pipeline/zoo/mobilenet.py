"""MobileNetV2 1.0 as an ONNX graph, from a PyTorch state dict of its convolutions.

Architecture: Sandler et al., arXiv 1801.04381, table 2. Batch norm is folded into the convolutions,
and so is what ImageNet training does to pixels: scale, mean, standard deviation and colour order.
The graph takes the camera's pixels as they are, uint8 BGR [N, 224, 224, 3].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError
from pipeline.zoo.onnx_file import IR_VERSION, OPSET, require_onnx

if TYPE_CHECKING:
    import onnx

INPUT_SIZE = 224
FLOAT_NODES = ("head.sum", "logits")
"""Nodes that gain nothing from int8."""
FEATURES = 1280
IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of red, green and blue over ImageNet, for pixels scaled to [0, 1]."""
IMAGENET_STD = (0.229, 0.224, 0.225)

_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, output channels, repeats and first stride of each stage (the paper's t, c, n, s)."""
_STEM_CHANNELS = 32
_GROUP = 4  # pixels of a row that the stem reads at once
_OUTPUTS = _GROUP // 2  # pixels of a row that it writes at once
_GROUPED_CHANNELS = 4 * _GROUP  # blue, green, red of each, and a quarter for what is constant
_BATCH_NORM_EPSILON = 1e-5

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
        return int(self.weight.shape[-1]) // 2

    def scale_output(self, factors: Float) -> Convolution:
        """The same with every output channel times its factor (before ReLU6)."""
        weight = self.weight * factors[:, None, None, None]
        return replace(self, weight=weight, bias=self.bias * factors)

    def scale_input(self, factors: Float) -> Convolution:
        """The same for input channels that come as many times too large."""
        if self.groups > 1:
            return replace(self, weight=self.weight / factors[:, None, None, None])
        return replace(self, weight=self.weight / factors[:, None, None])


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


def fold_pixels(stem: Convolution) -> tuple[Float, Float]:
    """Weight and bias of the stem over raw pixels, four of a row at a time.

    Four neighbours of a row are twelve channels that lie together in memory, and four more hold
    255: (out, 3, 3, 3) becomes (2 * out, 16, 3, 2) with strides 2 and 1, whose channels are two
    output pixels side by side. Integer kernels are slow on the three channels of single pixels.

    Normalising is (pixel / 255 - mean) / std. The mean cannot go into the bias: the network pads
    with zeros after normalising, so at the border the mean must be absent from the padded taps.
    The channels that are 255 inside the picture and 0 in its padding carry it exactly.
    """
    mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    scaled = stem.weight.astype(np.float64) / std[:, None, None] / 255.0
    offset = -(scaled * mean[:, None, None]).sum(axis=1)
    bgr = scaled[:, ::-1]
    out = len(scaled)
    weight = np.zeros((_OUTPUTS, out, _GROUPED_CHANNELS, 3, 2))
    for output in range(_OUTPUTS):
        for tap in range(3):
            # Relative to the first pixel of the group that the output belongs to; -1 lies before.
            pixel = stem.stride * output + tap - stem.padding
            group, place = divmod(pixel, _GROUP)
            weight[output, :, 3 * place : 3 * place + 3, :, group + 1] += bgr[..., tap]
            weight[output, :, 3 * _GROUP :, :, group + 1] += offset[:, None, :, tap] / _GROUP
    return (
        weight.reshape(_OUTPUTS * out, _GROUPED_CHANNELS, 3, 2).astype(np.float32),
        np.tile(stem.bias, _OUTPUTS),
    )


def build_mobilenet(
    blocks: Sequence[Block], head: tuple[Float, Float] | None = None
) -> onnx.ModelProto:
    """The network from uint8 pixels to `features` [N, 1280], or with a `head` to `logits`.

    `blocks` are those of `read_blocks`. `head` is a weight (classes, 1280) and a bias (classes,),
    float32; the output is then `logits` [N, classes]. Raises `DependencyError` without the onnx
    package.
    """
    onnx = require_onnx()
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
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="vision",
    )


class _GraphWriter:
    """Collects nodes and initializers; every method returns the name of the tensor it made."""

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._has_bounds = False

    def network(self, blocks: Sequence[Block], head: tuple[Float, Float] | None) -> tuple[str, int]:
        tensor = self._stem(blocks[0].convolutions[0])
        for index, block in enumerate(blocks[1:], start=1):
            tensor = self._block(tensor, block, f"block{index}")
        tensor = self._node("GlobalAveragePool", [tensor], "pool")
        if head is None:
            return self._node("Flatten", [tensor], "features"), FEATURES
        # A product of rank 3 and a sum rather than Gemm: ONNX Runtime has an integer product with
        # float output, so that logits are not rounded, but joins a product of rank 2 with its sum.
        rows = self._shape("head.rows.shape", [0, 1, FEATURES])
        tensor = self._node("Reshape", [tensor, rows], "head.rows")
        weight = self._constant("head.weight", np.ascontiguousarray(head[0].T))
        tensor = self._node("MatMul", [tensor, weight], "head.product")
        tensor = self._node("Add", [tensor, self._constant("head.bias", head[1])], "head.sum")
        return self._node("Flatten", [tensor], "logits"), len(head[1])

    def _stem(self, stem: Convolution) -> str:
        """From pixels in groups of four to channels first, as `fold_pixels` describes."""
        size, columns = INPUT_SIZE, INPUT_SIZE // _GROUP
        grouped = self._shape("stem.in", [0, size, columns, 3 * _GROUP])
        tensor = self._node("Reshape", ["image", grouped], "stem.grouped")
        pads = self._shape("stem.pads", [0, 0, 0, 0, 0, 0, 0, _GROUPED_CHANNELS - 3 * _GROUP])
        inside = self._constant("stem.inside", np.array(255, np.uint8))
        tensor = self._node("Pad", [tensor, pads, inside], "stem.padded")
        tensor = self._node("Transpose", [tensor], "stem.pixels", perm=[0, 3, 1, 2])
        to_float = self._onnx.TensorProto.FLOAT
        tensor = self._node("Cast", [tensor], "stem.float", to=to_float)
        weight, bias = fold_pixels(stem)
        tensor = self._convolution(
            tensor, "stem", weight, bias, strides=[stem.stride, 1], pads=[1, 1, 0, 0], group=1
        )
        tensor = self._relu6(tensor, "stem")
        tensor = self._node("Transpose", [tensor], "stem.rows", perm=[0, 2, 3, 1])
        halved = size // stem.stride
        ungrouped = self._shape("stem.out", [0, halved, halved, len(stem.bias)])
        tensor = self._node("Reshape", [tensor, ungrouped], "stem.ungrouped")
        return self._node("Transpose", [tensor], "stem.output", perm=[0, 3, 1, 2])

    def _block(self, tensor: str, block: Block, name: str) -> str:
        """Its convolutions are called `name`.0 and so on, its sum `name`.sum."""
        entry = tensor
        for index, part in enumerate(block.convolutions):
            part_name = f"{name}.{index}"
            tensor = self._convolution(
                tensor,
                part_name,
                part.weight,
                part.bias,
                strides=[part.stride] * 2,
                pads=[part.padding] * 4,
                group=part.groups,
            )
            if part.relu6:
                tensor = self._relu6(tensor, part_name)
        return self._node("Add", [entry, tensor], f"{name}.sum") if block.residual else tensor

    def _convolution(
        self, tensor: str, name: str, weight: Float, bias: Float, **attributes: Any
    ) -> str:
        inputs = [
            tensor,
            self._constant(f"{name}.weight", weight),
            self._constant(f"{name}.bias", bias),
        ]
        kernel = list(weight.shape[2:])
        return self._node("Conv", inputs, f"{name}.conv", kernel_shape=kernel, **attributes)

    def _relu6(self, tensor: str, name: str) -> str:
        if not self._has_bounds:
            self._constant("zero", np.array(0, np.float32))
            self._constant("six", np.array(6, np.float32))
            self._has_bounds = True
        return self._node("Clip", [tensor, "zero", "six"], f"{name}.relu6")

    def _shape(self, name: str, sizes: list[int]) -> str:
        return self._constant(name, np.array(sizes, np.int64))

    def _constant(self, name: str, array: npt.NDArray[Any]) -> str:
        self.initializers.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(
            self._onnx.helper.make_node(kind, inputs, [output], name=output, **attributes)
        )
        return output
