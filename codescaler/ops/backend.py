"""The narrow waist between the model and the machine: one frozen `Backend` value per device family.

Shape legend, here and in every operation:
    T packed tokens, B sequences, U distinct sequences, R query rows, D hidden, N query heads, K kv heads,
    H head dim, E = (N + 2K)H fused q|k|v width, F ffn, I and O input and output width of a linear map.
Activations are float32 or bfloat16 (`triton`: float16 too; `reference`: any). The residual stream, norm
weights, RoPE tables and the head are float32: they are small, and rounding them is what makes bfloat16 scores tie.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from codescaler.plan import Int32, TreeBatch
from codescaler.types import Activation, Rounding


@dataclass(frozen=True)
class Tree:
    """`plan.TreeBatch` as tensors on one device: fields and shapes as there, and `last_tokens` [U].

    All are int32, but for `token_ids`, `rows` and `last_tokens`, which are int64 since they index. `batch` is the same
    on the host, for what would otherwise wait for the device.
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
    batch: TreeBatch
    _tiles: dict[tuple[int, int], Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @staticmethod
    def from_batch(batch: TreeBatch, device: torch.device) -> "Tree":
        """Copies a planned batch to `device`."""
        names = [
            "token_ids",
            "positions",
            "block_tokens",
            "node_block_offsets",
            "node_blocks",
            "all_queries",
            "last_queries",
            "rows",
        ]
        fields = dict(zip(names, _upload([getattr(batch, name) for name in names], device), strict=True))
        for name in ("token_ids", "rows"):
            fields[name] = fields[name].long()
        return Tree(**fields, last_tokens=fields["last_queries"][:, 1].long(), batch=batch)

    @property
    def num_positions(self) -> int:
        """One more than the largest position."""
        return int(self.batch.positions.max()) + 1

    def host_queries(self, queries: Tensor) -> Int32:
        """`queries` on the host; those of another tree would have to be waited for."""
        assert queries is self.all_queries or queries is self.last_queries, "query runs of another tree"
        return self.batch.all_queries if queries is self.all_queries else self.batch.last_queries

    def tiles(self, queries: Tensor, max_tokens: int) -> Tensor:
        """`plan.TreeBatch.tiles` of `all_queries` or `last_queries`, planned and copied once for every layer."""
        key = (id(queries), max_tokens)
        if key not in self._tiles:
            (self._tiles[key],) = _upload([self.batch.tiles(self.host_queries(queries), max_tokens)], queries.device)
        return self._tiles[key]


def _upload(arrays: Sequence[Int32], device: torch.device) -> list[Tensor]:
    """Copies int32 arrays to `device` in one piece, which the host does not wait for; each starts at 16 bytes."""
    starts = np.cumsum([0, *(-(-array.size // 4) * 4 for array in arrays)]).tolist()
    packed = torch.empty(starts[-1], dtype=torch.int32, device="cpu", pin_memory=device.type == "cuda")
    view = packed.numpy()
    for start, array in zip(starts, arrays, strict=False):
        view[start : start + array.size] = array.ravel()
    packed = packed.to(device, non_blocking=True)
    return [packed[start : start + array.size].view(array.shape) for start, array in zip(starts, arrays, strict=False)]


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


class RmsNormBackward(Protocol):
    def __call__(
        self, z: Tensor, weight: Tensor, eps: float, grad_y: Tensor, also_grad_z: Tensor | None = None, /
    ) -> tuple[Tensor, Tensor]: ...


class TreeAttentionBackward(Protocol):
    def __call__(
        self,
        qkv: Tensor,
        heads: Heads,
        tree: Tree,
        queries: Tensor,
        scale: float,
        softcap: float | None,
        window: int | None,
        grad_out: Tensor,
        /,
    ) -> Tensor: ...


@dataclass(frozen=True)
class Gradients:
    """Gradients of the operations that are ours; `ops.autograd` says which operation takes which."""

    rms_norm_backward: RmsNormBackward
    glu_backward: Callable[[Tensor, Activation, Tensor], Tensor]
    tree_attention_backward: TreeAttentionBackward


@dataclass(frozen=True)
class Backend:
    """The operations of one device family, each defined by the function of the same name in `ops.reference`.

    Chosen once by `ops.select_backend` and passed by argument. `description` names what runs underneath.
    `pack_linear(weight, bias)` gives an opaque value that only the same backend's `linear` reads, and
    `pack_int8_linear(weight, scale, bias, rounding)` another, by which it computes `reference.int8_linear`.
    `copies_weights` says that such a value holds a copy, so that the weight's memory may be written over.
    `token_block` is how many tokens go through a layer's wide projections at a time, None for all.
    """

    name: str
    description: str
    has_bf16_unit: bool
    copies_weights: bool
    token_block: int | None
    pack_linear: Callable[[Tensor, Tensor | None], Any]
    pack_int8_linear: Callable[[Tensor, Tensor, Tensor | None, Rounding], Any]
    linear: Callable[[Tensor, Any], Tensor]
    rms_norm: RmsNorm
    qk_norm_rope: QkNormRope
    glu: Callable[[Tensor, Activation], Tensor]
    tree_attention: TreeAttention
    pooled_score: PooledScore
    pairwise_loss: PairwiseLoss
    gradients: Gradients

    @property
    def fastest_dtype(self) -> torch.dtype:
        """Of linear maps: bfloat16 where there are units for it, else float32."""
        return torch.bfloat16 if self.has_bf16_unit else torch.float32
