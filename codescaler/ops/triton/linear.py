"""Linear layers of the `triton` backend whose rows have the same bits in any batch: our own product."""

import dataclasses

from torch import Tensor

from codescaler.kernels import configurations, count_processors, linear
from codescaler.kernels.configurations import LinearConfiguration
from codescaler.ops.linear import LinearWeights, PlainFormat
from codescaler.types import Activation


class DeterministicLinear:
    """A plain weight as it is, and its bias; tiles are chosen by the number of rows, which changes no bits."""

    def __init__(self, architecture: str, weights: LinearWeights, _: PlainFormat) -> None:
        self.architecture = architecture
        self.weight, self.bias = weights.weight, weights.bias

    def __call__(self, x: Tensor) -> Tensor:
        y = x.new_empty(len(x), len(self.weight))
        linear.linear(x, self.weight, self.bias, y, self._choose(len(x)))
        return y

    def run_glu(self, x: Tensor, activation: Activation) -> Tensor:
        """Returns activation(gate) * up. Gate and up are rounded as a result is, so the bits are those of `glu`."""
        y = x.new_empty(len(x), len(self.weight) // 2)
        tile = self._choose(len(x))
        linear.linear(x, self.weight, self.bias, y, dataclasses.replace(tile, columns=tile.columns // 2), activation)
        return y

    def _choose(self, num_rows: int) -> LinearConfiguration:
        element_bytes, num_outputs = self.weight.element_size(), len(self.weight)
        return configurations.choose_linear_configuration(
            self.architecture, element_bytes, num_rows, num_outputs, count_processors()
        )
