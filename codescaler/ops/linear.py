"""Linear layers: the formats that their weights come in, and what a backend makes of weights in a format.

A backend computes a format where its `products` has a class for the format. A new format is a record here (or in
`types`, if a checkpoint names it), and a class in each backend that computes it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, TypeAlias

from torch import Tensor

from codescaler.types import Scheme


@dataclass(frozen=True)
class PlainFormat:
    """Weights and inputs in the dtype of the activations."""

    name: ClassVar[str] = "plain"


PLAIN = PlainFormat()
LinearFormat: TypeAlias = PlainFormat | Scheme


class LinearWeights(NamedTuple):
    """What a linear layer is made of. Shapes: weight [O, I], bias and scale [O].

    Dtypes: plain weight and bias as activations. A quantised weight has its format's dtype and a scale for each output;
    scale and bias are float32 then.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: Tensor | None = None

    @property
    def row_scale(self) -> Tensor:
        """The scale of a quantised weight."""
        assert self.scale is not None, "a quantised weight without a scale"
        return self.scale


class ExpertWeights(NamedTuple):
    """The MLPs of all experts of a layer. Shapes: gate_up [X, 2F, D], gate first; down [X, D, F]."""

    gate_up: Tensor
    down: Tensor


def stack_experts(weights: Iterable[Tensor], num_experts: int) -> Tensor:
    """Copies weights into one tensor as they come: each may lie where the one before it lay."""
    iterator = iter(weights)
    first = next(iterator)
    stacked = first.new_empty(num_experts, *first.shape)
    stacked[0] = first
    for place, weight in zip(stacked[1:], iterator, strict=True):
        place.copy_(weight)
    return stacked


class PackedLinear(Protocol):
    """Weights as one backend's product reads them."""

    def __call__(self, x: Tensor, /) -> Tensor: ...
