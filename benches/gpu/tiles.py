"""A sweep of attention's tiles: query rows, key step, warps and stages. Each result is checked before it is timed.

The first model meets every tile, the others the fastest of them. `key_step` is part of the numbers: a winner with
another step than the written table's changes bits.
"""

import functools
import itertools
import multiprocessing
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from codescaler.kernels import get_architecture
from codescaler.kernels.configurations import AttentionConfiguration, choose_attention_tile

from benches.gpu.parts import Emit, Figure, Row, Setting, make_setting
from codescaler.ops import AttentionSpec, Heads, Tree, reference
from codescaler.ops.plan import plan
from codescaler.ops.triton.backend import make_backend
from codescaler.testing import WORKLOADS, assert_accurate, make_branching_lists, make_random_qkv, measure_seconds

HEADS = {"1.7b": Heads(16, 8, 128), "8b": Heads(32, 8, 128), "0.5b": Heads(14, 2, 64)}
SMALL_HEADS = {"tiny": Heads(4, 2, 32)}
SWEEP = tuple(itertools.product((64, 128, 256), (32, 64, 128), (4, 8), (1, 2, 3, 4)))
SMALL_SWEEP = ((16, 32, 4, 1),)
NUM_FASTEST = 6
TRUTH_RUNS = 2  # nodes of the tree that are checked: the prompt and a candidate
NUM_COMPILERS = 12  # processes that compile and check beside one another


class Case:
    """One model's attention on `bon8`: its inputs, and the truth of some of the rows."""

    def __init__(self, heads: Heads, setting: Setting) -> None:
        sequences = [np.array(ids, dtype=np.int32) for ids in WORKLOADS["bon8"].draw_sequences()]
        (batch,) = plan(make_branching_lists()[-2:] if setting.is_small else sequences, 10**9)
        self.heads, self.device, self.num_rounds = heads, setting.device, setting.num_rounds
        self.tree = Tree.from_batch(batch, setting.device)
        dtype = torch.float16 if setting.is_small else torch.bfloat16  # the interpreter gets bfloat16 wrong
        self.qkv = make_random_qkv(self.tree, heads, dtype, torch.Generator(setting.device).manual_seed(0))
        self.spec = AttentionSpec(heads, heads.head_dim**-0.5)
        some = self.tree.all_queries[:TRUTH_RUNS]
        self.truth, self.peer = (
            reference.tree_attention(x, self.spec, self.tree, some) for x in (self.qkv.double(), self.qkv)
        )

    def attend(self, tile: AttentionConfiguration) -> torch.Tensor:
        return make_backend(tile).tree_attention(self.qkv, self.spec, self.tree, self.tree.all_queries)

    def time(self, tile: AttentionConfiguration) -> dict[str, Figure]:
        """The median of some calls, and the products of visible pairs a second."""
        seconds = statistics.median(
            measure_seconds(lambda: self.attend(tile), self.device) for _ in range(self.num_rounds)
        )
        num_pairs = int(self.tree.batch.positions.sum()) + len(self.qkv)
        return {"us": 1e6 * seconds, "tflops": 4.0 * self.heads.q_width * num_pairs / seconds / 1e12}


def run(setting: Setting, emit: Emit) -> None:
    tiles = [AttentionConfiguration(*values) for values in (SMALL_SWEEP if setting.is_small else SWEEP)]
    with ProcessPoolExecutor(1 if setting.is_small else NUM_COMPILERS, multiprocessing.get_context("spawn")) as pool:
        for model, heads in (SMALL_HEADS if setting.is_small else HEADS).items():
            case = Case(heads, setting)
            seconds: dict[AttentionConfiguration, float] = {}
            tiles = _put_first(_get_table_tile(heads), tiles)
            checks = [pool.submit(check, model, tile, setting.is_small) for tile in tiles]
            faults = [result.result() for result in checks]  # all of them, before the card is to be timed
            for tile, fault in zip(tiles, faults, strict=True):
                row = _make_row(model, tile, fault, case)
                if row.is_ok:
                    seconds[tile] = float(row.figures["us"] or 0)
                emit(row)
            tiles = sorted(seconds, key=seconds.__getitem__)[:NUM_FASTEST]


def check(model: str, tile: AttentionConfiguration, is_small: bool) -> str:
    """Compiles a tile and runs it once, and returns what is wrong with it. Runs in a process of the pool."""
    try:
        case = _make_case(model, is_small)
        assert_accurate(case.attend(tile)[: len(case.truth)], case.truth, case.peer)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:120]}"
    return ""


@functools.cache
def _make_case(model: str, is_small: bool) -> Case:
    return Case((HEADS | SMALL_HEADS)[model], make_setting(is_small, 0, 1, frozenset()))


def _make_row(model: str, tile: AttentionConfiguration, fault: str, case: Case) -> Row:
    name = f"{model} rows {tile.rows} step {tile.key_step} warps {tile.num_warps} stages {tile.num_stages}"
    if fault:  # that a card has no room for a tile is no fault of ours; a wrong result is
        return Row(name, None if "OutOfResources" in fault else False, {}, fault)
    return Row(name, True, case.time(tile))


def _get_table_tile(heads: Heads) -> AttentionConfiguration:
    return choose_attention_tile(get_architecture(), heads.head_dim, 2, heads.group)


def _put_first(tile: AttentionConfiguration, tiles: Sequence[AttentionConfiguration]) -> list[AttentionConfiguration]:
    return [tile, *(other for other in tiles if other != tile)]
