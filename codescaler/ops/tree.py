"""The packed prefix tree as tensors on one device, with what backends plan from it once for all layers."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from codescaler.ops.plan import TreeBatch
from codescaler.text.token_ids import Int32

Plan = TypeVar("Plan")


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
    _plans: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

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

    def get_host_queries(self, queries: Tensor) -> Int32:
        """`queries` on the host; those of another tree would have to be waited for."""
        assert queries is self.all_queries or queries is self.last_queries, "query runs of another tree"
        return self.batch.all_queries if queries is self.all_queries else self.batch.last_queries

    def plan_once(self, queries: Tensor, kind: Hashable, make: Callable[[Int32], Plan]) -> Plan:
        """Returns what `make` makes of `queries` on the host, once: later layers get the same plan."""
        key = (id(queries), kind)
        if key not in self._plans:
            self._plans[key] = make(self.get_host_queries(queries))
        plan: Plan = self._plans[key]
        return plan

    def upload_tiles(self, queries: Tensor, max_tokens: int, key_step: int) -> tuple[Tensor, Tensor]:
        """Returns `plan_tiles` of `all_queries` or `last_queries` and `plan_steps` on their device, planned once."""

        def make(runs: Int32) -> tuple[Tensor, Tensor]:
            tiles = self.batch.plan_tiles(runs, max_tokens, is_padded=True)
            on_device = _upload([tiles, self.batch.plan_steps(key_step)], queries.device)
            return on_device[0], on_device[1]

        return self.plan_once(queries, ("tiles", max_tokens, key_step), make)


def _upload(arrays: Sequence[Int32], device: torch.device) -> list[Tensor]:
    """Copies int32 arrays to `device` in one piece, which the host does not wait for; each starts at 16 bytes."""
    starts = np.cumsum([0, *(-(-array.size // 4) * 4 for array in arrays)]).tolist()
    packed = torch.empty(starts[-1], dtype=torch.int32, device="cpu", pin_memory=device.type == "cuda")
    view = packed.numpy()
    for start, array in zip(starts, arrays, strict=False):
        view[start : start + array.size] = array.ravel()
    packed = packed.to(device, non_blocking=True)
    return [packed[start : start + array.size].view(array.shape) for start, array in zip(starts, arrays, strict=False)]
