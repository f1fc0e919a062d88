"""The interface of a detector family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.inference.nms import Decoded, Limits
from pipeline.inference.preprocess import BoxMapping

Positive = Annotated[float, msgspec.Meta(gt=0)]
Shape = list[int | None]
"""The shape of an output, None for a size that is not fixed."""

Outputs = Sequence[npt.NDArray[np.float32]]
Decoder = Callable[[Outputs, BoxMapping, Limits], Decoded]
"""Turns the outputs of one image, without their batch axis, into objects."""


class Family(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="family"
):
    """What a model's spec says of a detector's outputs, and how they become objects.

    `kernel` is the compiled function that the decoder calls; it holds no interpreter lock.
    """

    kernel: ClassVar[Any]

    def shapes(self, classes: int) -> dict[str, Shape]:
        """The shape of each output by name, in the order that the decoder takes them."""
        raise NotImplementedError

    def decoder(self, input_size: tuple[int, int]) -> Decoder:
        """The decoder for a network input of that width and height in pixels.

        It leaves out boxes that are not finite (NaN or infinity in the outputs) or that lie outside
        the frame.
        """
        raise NotImplementedError

    def problem(self, outputs: Outputs) -> str | None:
        """What shows that the graph's outputs, batch included, are not what the family decodes."""
        return None

    def describe(self) -> dict[str, str]:
        """What is known of each output by name, for `vision models info`."""
        raise NotImplementedError
