"""A sweep of attention's tiles: query rows, key step, warps, stages and how keys are read.

Each tile is checked before it is timed: its error by the derived bound, and that a sequence has the bits that it has
alone. The first model meets every tile, the others the fastest of them. `key_step` is part of the numbers: a winner
with another step than the written table's changes bits. `bits` is a digest of the result: of tiles with one `key_step`
it shows which agree.

Times are those of the kernel alone, in a row of calls, so that keys are found in the second-level cache as they are
in a model. (An earlier form of this sweep timed the host's launches with them: 200 us of a kernel that took 68.)
"""

import functools
import hashlib
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from codescaler.kernels import get_architecture
from codescaler.kernels.configurations import AttentionConfiguration, choose_attention_tile

from benches.gpu.parts import Emit, Figure, Row, Setting, make_setting
from codescaler.ops import AttentionSpec, Heads, Tree, reference
from codescaler.ops.plan import plan
from codescaler.ops.triton.backend import make_backend
from codescaler.testing import (
    WORKLOADS,
    assert_accurate,
    make_branching_lists,
    make_random_qkv,
    measure_kernel_seconds,
)

HEADS = {"1.7b": Heads(16, 8, 128), "8b": Heads(32, 8, 128), "0.5b": Heads(14, 2, 64)}
SMALL_HEADS = {"tiny": Heads(4, 2, 32)}
SWEEP = (
    (128, 64, 8, 3, "lists"),
    *((rows, 64, rows // 16, stages, reads) for rows in (64, 128) for stages in (2, 3) for reads in ("runs", "tma")),
    *((rows, 128, rows // 16, stages, "tma") for rows in (64, 128) for stages in (2, 3)),
)  # twice as many rows, or half as many keys, were slower on an H200 by 17% and more, and 64 rows of 8 warps by 60%
SMALL_SWEEP = ((16, 32, 4, 1, "lists"), (16, 32, 4, 1, "runs"), (16, 32, 4, 1, "tma"))
NUM_FASTEST = 6
TRUTH_RUNS = 2  # nodes of the tree that are checked: the prompt and a candidate
NUM_COMPILERS = 12  # processes that compile and check beside one another
NUM_CALLS = 20  # of which each time is the mean


class Case:
    """One model's attention on `bon8`: its inputs, the truth of some of the rows, and one sequence alone."""

    def __init__(self, heads: Heads, setting: Setting) -> None:
        sequences = [np.array(ids, dtype=np.int32) for ids in WORKLOADS["bon8"].draw_sequences()]
        (batch,) = plan(make_branching_lists()[1:4] if setting.is_small else sequences, 10**9)
        self.heads, self.device = heads, setting.device
        self.num_calls = 1 if setting.is_small else NUM_CALLS
        self.tree = Tree.from_batch(batch, setting.device)
        dtype = torch.float16 if setting.is_small else torch.bfloat16  # the interpreter gets bfloat16 wrong
        self.qkv = make_random_qkv(self.tree, heads, dtype, torch.Generator(setting.device).manual_seed(0))
        self.spec = AttentionSpec(heads, heads.head_dim**-0.5)
        some = self.tree.all_queries[:TRUTH_RUNS]
        self.truth, self.peer = (
            reference.tree_attention(x, self.spec, self.tree, some) for x in (self.qkv.double(), self.qkv)
        )
        node = int(batch.read_queries[-1, 0])
        blocks = batch.node_blocks[batch.node_block_offsets[node] : batch.node_block_offsets[node + 1]]
        path = batch.block_tokens[blocks].ravel()
        self.path = torch.from_numpy(path[path >= 0]).to(setting.device)
        (batch,) = plan([np.arange(len(self.path), dtype=np.int32)], 10**9)
        self.alone = Tree.from_batch(batch, setting.device)

    def attend(self, tile: AttentionConfiguration) -> torch.Tensor:
        return make_backend(tile).tree_attention(self.qkv, self.spec, self.tree, self.tree.all_queries)

    def attend_alone(self, tile: AttentionConfiguration) -> torch.Tensor:
        """The last sequence without the others."""
        qkv = self.qkv[self.path]
        return make_backend(tile).tree_attention(qkv, self.spec, self.alone, self.alone.all_queries)

    def time(self, tile: AttentionConfiguration) -> dict[str, Figure]:
        """Microseconds of the kernel, and the products of visible pairs a second."""
        seconds = measure_kernel_seconds(lambda: self.attend(tile), self.device, self.num_calls)
        num_pairs = int(self.tree.batch.positions.sum()) + len(self.qkv)
        return {"us": 1e6 * seconds, "tflops": 4.0 * self.heads.q_width * num_pairs / seconds / 1e12}


@dataclass(frozen=True)
class Check:
    """What is wrong with a tile, and a digest of its result."""

    fault: str
    bits: str = ""


def run(setting: Setting, emit: Emit) -> None:
    tiles = [AttentionConfiguration(*values) for values in (SMALL_SWEEP if setting.is_small else SWEEP)]  # type: ignore[arg-type]
    with ProcessPoolExecutor(1 if setting.is_small else NUM_COMPILERS, multiprocessing.get_context("spawn")) as pool:
        for model, heads in (SMALL_HEADS if setting.is_small else HEADS).items():
            case = Case(heads, setting)
            seconds: dict[AttentionConfiguration, float] = {}
            tiles = _put_first(_get_table_tile(heads), tiles)
            checks = [pool.submit(check, model, tile, setting.is_small) for tile in tiles]
            results = [result.result() for result in checks]  # all of them, before the card is to be timed
            for tile, result in zip(tiles, results, strict=True):
                row = _make_row(model, tile, result, case)
                if row.is_ok:
                    seconds[tile] = float(row.figures["us"] or 0)
                emit(row)
            tiles = sorted(seconds, key=seconds.__getitem__)[:NUM_FASTEST]


def check(model: str, tile: AttentionConfiguration, is_small: bool) -> Check:
    """Compiles a tile, runs it on the whole batch and on one sequence. Runs in a process of the pool."""
    try:
        case = _make_case(model, is_small)
        out = case.attend(tile)
        assert_accurate(out[: len(case.truth)], case.truth, case.peer)
        is_equal = torch.equal(out[case.path], case.attend_alone(tile))
    except Exception as error:
        return Check(f"{type(error).__name__}: {str(error)[:120]}")
    bits = hashlib.sha256(out.cpu().view(torch.uint8).numpy().tobytes()).hexdigest()[:8]
    return Check("" if is_equal else "a sequence has other bits alone than in the batch", bits)


@functools.cache
def _make_case(model: str, is_small: bool) -> Case:
    return Case((HEADS | SMALL_HEADS)[model], make_setting(is_small, 0, 1, frozenset()))


def _make_row(model: str, tile: AttentionConfiguration, result: Check, case: Case) -> Row:
    name = f"{model} rows {tile.rows} step {tile.key_step} warps {tile.num_warps} stages {tile.num_stages} {tile.reads}"
    if result.fault:  # that a card has no room for a tile is no fault of ours; a wrong result is
        return Row(name, None if "OutOfResources" in result.fault else False, {"bits": result.bits}, result.fault)
    return Row(name, True, case.time(tile) | {"bits": result.bits})


def _get_table_tile(heads: Heads) -> AttentionConfiguration:
    return choose_attention_tile(get_architecture(), heads.head_dim, 2, heads.group)


def _put_first(tile: AttentionConfiguration, tiles: Sequence[AttentionConfiguration]) -> list[AttentionConfiguration]:
    return [tile, *(other for other in tiles if other != tile)]
