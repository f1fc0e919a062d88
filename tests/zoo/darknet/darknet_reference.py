"""An independent evaluation of Darknet networks, layer by layer in float64 NumPy.

Networks are lists of dictionaries, from which the cfg text and the weights file are written. It
shares no code with the importer: batch norm is applied as it stands in the file, pixels become RGB
in [0, 1] first, and every window is looked at on its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

Layer = dict[str, Any]
LEAKY = {"size": 3, "stride": 1, "pad": 1, "activation": "leaky", "batch_normalize": 1}


def conv(filters: int, size: int = 3, stride: int = 1, **options: Any) -> Layer:
    return {"kind": "convolutional", **LEAKY, "filters": filters, "size": size,
            "stride": stride, **options}  # fmt: skip


def linear(filters: int) -> Layer:
    return conv(filters, 1, activation="linear", batch_normalize=0)


def yolo(mask: str, classes: int, anchors: str, **options: Any) -> Layer:
    count = len(anchors.split(",")) // 2
    return {"kind": "yolo", "mask": mask, "anchors": anchors, "classes": classes, "num": count,
            "jitter": ".3", "ignore_thresh": ".7", **options}  # fmt: skip


def route(layers: str, **options: Any) -> Layer:
    return {"kind": "route", "layers": layers, **options}


SIX = "10,14, 23,27, 37,58, 81,82, 135,169, 344,319"
NINE = "12,16, 19,36, 40,28, 36,75, 76,55, 72,146, 142,110, 192,243, 459,401"


def yolov3_tiny(classes: int, width: int) -> list[Layer]:
    """The layers of yolov3-tiny with `width` channels at the start."""
    layers: list[Layer] = []
    for step in range(6):
        layers.append(conv(width * 2**step))
        layers.append({"kind": "maxpool", "size": 2, "stride": 2 if step < 5 else 1})
    head = 3 * (5 + classes)
    return [
        *layers, conv(width * 64), conv(width * 16, 1), conv(width * 32), linear(head),
        yolo("3,4,5", classes, SIX), route("-4"), conv(width * 8, 1),
        {"kind": "upsample", "stride": 2}, route("-1, 8"), conv(width * 16), linear(head),
        yolo("0,1,2", classes, SIX),
    ]  # fmt: skip


def yolov4_tiny(classes: int, width: int, heads: int = 2) -> list[Layer]:
    """The layers of yolov4-tiny, or with three heads those of yolov4-tiny-3l."""
    layers = [conv(width, stride=2), conv(width * 2, stride=2)]
    for step in range(3):
        c = width * 2 * 2**step
        layers += [
            conv(c), route("-1", groups=2, group_id=1), conv(c // 2), conv(c // 2),
            route("-1,-2"), conv(c, 1), route("-6,-1"),
            {"kind": "maxpool", "size": 2, "stride": 2},
        ]  # fmt: skip
    layers.append(conv(width * 16))
    anchors, masks = (
        (SIX, ("3,4,5", "1,2,3")) if heads == 2 else (NINE, ("6,7,8", "3,4,5", "0,1,2"))
    )
    sides = ("23", "15")
    for number, mask in enumerate(masks):
        if number:
            layers += [
                route("-4" if number == 1 else "-3"), conv(width * 4 // number, 1),
                {"kind": "upsample", "stride": 2}, route(f"-1, {sides[number - 1]}"),
            ]  # fmt: skip
        elif heads:
            layers.append(conv(width * 8, 1))
        layers += [
            conv(width * 16 // 2**number), linear(3 * (5 + classes)),
            yolo(mask, classes, anchors, scale_x_y=1.05),
        ]  # fmt: skip
    return layers


def write_config(path: Path, layers: list[Layer], width: int, height: int, **net: Any) -> Path:
    lines = ["[net]", "batch=64", f"width={width}", f"height = {height}", "channels=3"]
    lines += [f"{name}={value}" for name, value in net.items()]
    for layer in layers:
        lines += ["", f"[{layer['kind']}]", "# a remark"]
        lines += [f"{name}={value}" for name, value in layer.items() if name != "kind"]
    path.write_text("\n".join(lines) + "\n")
    return path


class Network:
    """A network with random weights that keep the size of activations."""

    def __init__(self, layers: list[Layer], seed: int = 0) -> None:
        self.layers = layers
        self.rng = np.random.default_rng(seed)
        self.channels: list[int] = []
        self.parameters: dict[int, dict[str, np.ndarray]] = {}
        for index, layer in enumerate(layers):
            self.channels.append(self._channels(index, layer))

    def write_weights(self, path: Path, version: tuple[int, int] = (0, 2)) -> Path:
        seen = np.int64(32013312) if version >= (0, 2) else np.int32(32013312)
        parts = [np.array([*version, 5], "<i4").tobytes(), seen.tobytes()]
        for found in self.parameters.values():
            order = ("bias", "scale", "mean", "variance", "weight")
            parts += [found[name].astype("<f4").tobytes() for name in order if name in found]
        path.write_bytes(b"".join(parts))
        return path

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        """The heads for one (H, W, 3) uint8 BGR image, each (channels, rows, columns)."""
        tensor = image[:, :, ::-1].transpose(2, 0, 1).astype(np.float64) / 255
        outputs: list[np.ndarray] = []
        heads = []
        for index, layer in enumerate(self.layers):
            if layer["kind"] == "convolutional":
                tensor = self._convolve(tensor, layer, self.parameters[index])
            elif layer["kind"] == "maxpool":
                tensor = maxpool(tensor, layer)
            elif layer["kind"] == "route":
                tensor = np.concatenate([_part(outputs[i], layer) for i in _sources(index, layer)])
            elif layer["kind"] == "upsample":
                tensor = tensor.repeat(layer["stride"], axis=1).repeat(layer["stride"], axis=2)
            elif layer["kind"] == "shortcut":
                tensor = activate(tensor + outputs[index + layer["from"]], layer["activation"])
            elif layer["kind"] != "dropout":
                heads.append(tensor)
            outputs.append(tensor)
        return heads

    def _channels(self, index: int, layer: Layer) -> int:
        before = self.channels[-1] if self.channels else 3
        if layer["kind"] == "convolutional":
            self._draw(index, layer, before)
            return int(layer["filters"])
        if layer["kind"] == "route":
            sources = _sources(index, layer)
            return sum(self.channels[i] for i in sources) // int(layer.get("groups", 1))
        return before

    def _draw(self, index: int, layer: Layer, before: int) -> None:
        filters, size, rng = layer["filters"], layer["size"], self.rng
        fan_in = before // layer.get("groups", 1)
        found = {"bias": rng.normal(0, 0.3, filters)}
        if layer["batch_normalize"]:
            found["scale"] = rng.uniform(0.5, 1.5, filters)
            found["mean"] = rng.normal(0, 0.3, filters)
            found["variance"] = rng.uniform(0.2, 1.5, filters)
        shape = (filters, fan_in, size, size)
        found["weight"] = rng.normal(0, (fan_in * size**2) ** -0.5, shape)
        self.parameters[index] = {k: v.astype(np.float32) for k, v in found.items()}

    @staticmethod
    def _convolve(x: np.ndarray, layer: Layer, p: dict[str, np.ndarray]) -> np.ndarray:
        size, stride, groups = layer["size"], layer["stride"], layer.get("groups", 1)
        pad = size // 2 if layer["pad"] else layer.get("padding", 0)
        padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
        windows = windows[:, ::stride, ::stride]
        weight = p["weight"].astype(np.float64)
        parts = zip(np.split(windows, groups), np.split(weight, groups), strict=True)
        y = np.concatenate([np.einsum("crwij,ocij->orw", a, b, optimize=True) for a, b in parts])
        if "scale" in p:
            normal = (y - p["mean"][:, None, None]) / np.sqrt(p["variance"] + 1e-5)[:, None, None]
            y = normal * p["scale"][:, None, None]
        return activate(y + p["bias"][:, None, None], layer["activation"])


def activate(x: np.ndarray, kind: str) -> np.ndarray:
    functions = {
        "linear": lambda: x,
        "leaky": lambda: np.where(x > 0, x, 0.1 * x),
        "relu": lambda: np.maximum(x, 0),
        "relu6": lambda: np.clip(x, 0, 6),
        "logistic": lambda: 1 / (1 + np.exp(-x)),
        "tanh": lambda: np.tanh(x),
        "swish": lambda: x / (1 + np.exp(-x)),
        "mish": lambda: x * np.tanh(np.log1p(np.exp(x))),
    }
    return functions[kind]()


def maxpool(x: np.ndarray, layer: Layer) -> np.ndarray:
    """Pool each window, at offsets of -padding // 2 as in Darknet's loops."""
    size, stride = layer["size"], layer["stride"]
    padding = layer.get("padding", size - 1)
    channels, rows, columns = x.shape
    out_rows, out_columns = ((n + padding - size) // stride + 1 for n in (rows, columns))
    out = np.full((channels, out_rows, out_columns), -np.inf)
    for i in range(out_rows):
        for j in range(out_columns):
            top, left = i * stride - padding // 2, j * stride - padding // 2
            window = x[:, max(top, 0) : top + size, max(left, 0) : left + size]
            out[:, i, j] = window.max(axis=(1, 2))
    return out


def _sources(index: int, layer: Layer) -> list[int]:
    numbers = [int(text) for text in str(layer["layers"]).split(",")]
    return [n if n >= 0 else index + n for n in numbers]


def _part(x: np.ndarray, layer: Layer) -> np.ndarray:
    width = len(x) // int(layer.get("groups", 1))
    start = width * int(layer.get("group_id", 0))
    return x[start : start + width]
