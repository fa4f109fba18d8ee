"""The packed prefix tree as tensors on one device, with what backends plan from it once for all layers."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from codescaler.ops.plan import TreeBatch
from codescaler.text.token_ids import Int32

Plan = TypeVar("Plan")
Integers: TypeAlias = npt.NDArray[np.int32] | npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tree:
    """`plan.TreeBatch` as tensors on one device: fields and shapes as there.

    All are int32, but for `token_ids`, `rows` and `read_tokens`, which are int64 since they index. `batch` is the same
    on the host, for what would otherwise wait for the device.
    """

    token_ids: Tensor
    positions: Tensor
    block_tokens: Tensor
    node_block_offsets: Tensor
    node_blocks: Tensor
    all_queries: Tensor
    read_queries: Tensor
    read_tokens: Tensor
    rows: Tensor
    batch: TreeBatch
    _packed: Tensor = field(repr=False, compare=False)
    _plans: dict[tuple[str, Any], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @staticmethod
    def from_batch(batch: TreeBatch, device: torch.device) -> "Tree":
        """Copies a planned batch to `device`."""
        arrays = _list_arrays(batch)
        packed = _pack(list(arrays.values()), device).to(device, non_blocking=True)
        fields = dict(zip(arrays, _unpack(packed, list(arrays.values())), strict=True))
        return Tree(**fields, batch=batch, _packed=packed)

    def cut(self, is_kept: Sequence[bool]) -> tuple["Tree", Tensor]:
        """Returns `TreeBatch.cut` on the device of this tree; the tokens are int64."""
        batch, tokens = self.batch.cut(np.asarray(is_kept, np.bool_))
        device = self.token_ids.device
        return Tree.from_batch(batch, device), upload([tokens.astype(np.int64)], device)[0]

    @property
    def num_positions(self) -> int:
        """One more than the largest position."""
        return self.batch.num_positions

    def get_host_queries(self, queries: Tensor) -> Int32:
        """`queries` on the host; those of another tree would have to be waited for."""
        runs: Int32 = getattr(self.batch, self._name(queries))
        return runs

    def count_rows(self, queries: Tensor) -> int:
        """Returns the rows of attention's result for `all_queries` or `read_queries`."""
        return len(self.token_ids if queries is self.all_queries else self.read_tokens)

    def plan_once(self, queries: Tensor, kind: Hashable, make: Callable[[Int32], Plan]) -> Plan:
        """Returns what `make` makes of `queries` on the host, once: later layers get the same plan."""
        key = (self._name(queries), kind)
        if key not in self._plans:
            self._plans[key] = make(self.get_host_queries(queries))
        plan: Plan = self._plans[key]
        return plan

    def upload_tiles(self, queries: Tensor, max_tokens: int, key_step: int) -> tuple[Tensor, Tensor]:
        """Returns `plan_tiles` of `all_queries` or `read_queries` and `plan_steps` on their device, planned once."""

        def make(runs: Int32) -> tuple[Tensor, Tensor]:
            tiles = self.batch.plan_tiles(runs, max_tokens, is_padded=True)
            on_device = upload([tiles, self.batch.plan_steps(key_step)], queries.device)
            return on_device[0], on_device[1]

        return self.plan_once(queries, ("tiles", max_tokens, key_step), make)

    def overwrite(self, batch: TreeBatch) -> None:
        """Puts another batch, padded to the same sizes, and its tiles in the memory of this one.

        A forward that was captured on this tree computes that batch then. `batch` stays what it was.
        """
        assert batch.sizes is not None and batch.sizes == self.batch.sizes, "trees of other sizes"
        _copy_over(self._packed, list(_list_arrays(batch).values()))
        for (name, kind), plan in self._plans.items():
            if kind[0] == "tiles":
                _, max_tokens, key_step = kind
                tiles = batch.plan_tiles(getattr(batch, name), max_tokens, is_padded=True)
                for target, array in zip(plan, (tiles, batch.plan_steps(key_step)), strict=True):
                    _copy_over(target, [array])

    def _name(self, queries: Tensor) -> str:
        assert queries is self.all_queries or queries is self.read_queries, "query runs of another tree"
        return "all_queries" if queries is self.all_queries else "read_queries"


def upload(arrays: Sequence[Integers], device: torch.device) -> list[Tensor]:
    """Copies arrays to `device` in one piece, which the host does not wait for; each starts at 16 bytes."""
    return _unpack(_pack(arrays, device).to(device, non_blocking=True), arrays)


def _list_arrays(batch: TreeBatch) -> dict[str, Integers]:
    """What the tensors of a tree hold, by name."""
    names = ("positions", "block_tokens", "node_block_offsets", "node_blocks", "all_queries", "read_queries")
    indices = {"token_ids": batch.token_ids, "read_tokens": batch.read_tokens, "rows": batch.rows}
    return {name: getattr(batch, name) for name in names} | {
        name: array.astype(np.int64) for name, array in indices.items()
    }


def _list_bounds(arrays: Sequence[Integers]) -> list[int]:
    """Where arrays stand one after the other, in int32: each starts at 16 bytes."""
    return list(accumulate((-(-array.nbytes // 16) * 4 for array in arrays), initial=0))


def _pack(arrays: Sequence[Integers], device: torch.device) -> Tensor:
    """Returns arrays in one piece on the host, from where `device` copies it while the host goes on."""
    bounds = _list_bounds(arrays)
    packed = torch.empty(bounds[-1], dtype=torch.int32, device="cpu", pin_memory=device.type == "cuda")
    view = packed.numpy()
    for start, array in zip(bounds, arrays, strict=False):
        view[start : start + array.nbytes // 4] = array.ravel().view(np.int32)
    return packed


def _unpack(packed: Tensor, arrays: Sequence[Integers]) -> list[Tensor]:
    """Returns the parts of `packed`, with the shapes and dtypes of `arrays`."""
    bounds = _list_bounds(arrays)
    parts = (packed[start : start + array.nbytes // 4] for start, array in zip(bounds, arrays, strict=False))
    dtypes = (torch.int64 if array.dtype == np.int64 else torch.int32 for array in arrays)
    return [part.view(dtype).view(array.shape) for part, dtype, array in zip(parts, dtypes, arrays, strict=True)]


def _copy_over(target: Tensor, arrays: Sequence[Integers]) -> None:
    target.view(-1).copy_(_pack(arrays, target.device)[: target.numel()], non_blocking=True)
