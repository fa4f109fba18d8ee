"""The narrow waist between the model and the machine: one frozen `Backend` value per device family.

Shape legend, here and in every operation:
    T packed tokens, B sequences, U distinct sequences, R query rows, D hidden, N query heads, K kv heads,
    H head dim, E = (N + 2K)H fused q|k|v width, F ffn, I and O input and output width of a linear map.
Activations are float32 or bfloat16 (float64 too on `reference`). The residual stream, norm weights, RoPE tables
and the head are float32: they are small, and rounding them is what makes bfloat16 scores tie.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from codescaler.plan import TreeBatch
from codescaler.types import Activation


@dataclass(frozen=True)
class Tree:
    """`plan.TreeBatch` as tensors on one device: fields and shapes as there, and `last_tokens` [U].

    All are int32, but for `token_ids`, `rows` and `last_tokens`, which are int64 since they index.
    """

    token_ids: Tensor
    positions: Tensor
    block_tokens: Tensor
    node_block_offsets: Tensor
    node_blocks: Tensor
    all_queries: Tensor
    last_queries: Tensor
    last_tokens: Tensor
    rows: Tensor

    @staticmethod
    def from_batch(batch: TreeBatch, device: torch.device) -> "Tree":
        """Copies a planned batch to `device`."""

        def move(array: Any, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.from_numpy(array).to(device, dtype)

        return Tree(
            token_ids=move(batch.token_ids, torch.int64),
            positions=move(batch.positions),
            block_tokens=move(batch.block_tokens),
            node_block_offsets=move(batch.node_block_offsets),
            node_blocks=move(batch.node_blocks),
            all_queries=move(batch.all_queries),
            last_queries=move(batch.last_queries),
            last_tokens=move(batch.last_queries[:, 1], torch.int64),
            rows=move(batch.rows, torch.int64),
        )


@dataclass(frozen=True)
class Heads:
    """How a fused q|k|v row of width E splits into heads."""

    num_heads: int
    num_kv_heads: int
    head_dim: int

    @property
    def q_width(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.num_kv_heads * self.head_dim


# Arguments are positional, so that an implementation may give its tensors their shape suffixes.


class RmsNorm(Protocol):
    def __call__(self, x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None, /) -> Tensor: ...


class QkNormRope(Protocol):
    def __call__(
        self,
        qkv: Tensor,
        heads: Heads,
        positions: Tensor,
        cos: Tensor,
        sin: Tensor,
        q_norm: Tensor | None = None,
        k_norm: Tensor | None = None,
        eps: float = 0.0,
        /,
    ) -> None: ...


class TreeAttention(Protocol):
    def __call__(
        self,
        qkv: Tensor,
        heads: Heads,
        tree: Tree,
        queries: Tensor,
        scale: float,
        softcap: float | None = None,
        window: int | None = None,
        /,
    ) -> Tensor: ...


class PooledScore(Protocol):
    def __call__(
        self,
        x: Tensor,
        residual: Tensor,
        rows: Tensor,
        norm_weight: Tensor,
        eps: float,
        head_weight: Tensor | None,
        head_bias: Tensor | None,
        /,
    ) -> tuple[Tensor, Tensor | None]: ...


class PairwiseLoss(Protocol):
    def __call__(
        self,
        scores: Tensor,
        labels: Tensor,
        group_offsets: Tensor,
        margins: Tensor | None = None,
        center_coefficient: float = 0.0,
        /,
    ) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Backend:
    """The operations of one device family, each defined by the function of the same name in `ops.reference`.

    Chosen once by `ops.select_backend` and passed by argument. `description` names what runs underneath.
    `pack_linear(weight, bias)` gives an opaque value that only the same backend's `linear` reads.
    """

    name: str
    description: str
    has_bf16_unit: bool
    pack_linear: Callable[[Tensor, Tensor | None], Any]
    linear: Callable[[Tensor, Any], Tensor]
    rms_norm: RmsNorm
    qk_norm_rope: QkNormRope
    glu: Callable[[Tensor, Activation], Tensor]
    tree_attention: TreeAttention
    pooled_score: PooledScore
    pairwise_loss: PairwiseLoss
