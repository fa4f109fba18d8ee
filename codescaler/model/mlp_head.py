"""A reward head of two linear layers with a ReLU between, on the pooled features, in float32."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from codescaler.ops import Backend, LinearWeights
from codescaler.ops.linear import PackedLinear


@dataclass(frozen=True)
class MlpHead:
    """Score = w relu(W feature + b) + c. `tensors` are W, b, w and c; Shapes: [M, D], [M], [1, M], [1]."""

    tensors: tuple[Tensor, Tensor, Tensor, Tensor]
    hidden: PackedLinear
    output: PackedLinear

    def __call__(self, backend: Backend, features_BD: Tensor) -> Tensor:
        """Returns each sequence's score. A row has the same bits in any batch, as in the backend's other products."""
        hidden_BM = backend.linear(features_BD, self.hidden).relu()
        return backend.linear(hidden_BM, self.output)[:, 0]


def build_mlp_head(read: Callable[[str], Tensor | None], backend: Backend) -> MlpHead:
    """Packs the tensors that `read` returns by canonical name."""
    parts = [read(f"{name}.{kind}") for name in ("head.hidden", "head") for kind in ("weight", "bias")]
    first, first_bias, second, second_bias = (part for part in parts if part is not None)
    return MlpHead(
        (first, first_bias, second, second_bias),
        backend.pack_linear(LinearWeights(first, first_bias)),
        backend.pack_linear(LinearWeights(second, second_bias)),
    )
