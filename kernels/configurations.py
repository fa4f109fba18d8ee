"""How kernels are cut for an architecture: a written table, and a heuristic for what is not in it. Nothing is tuned.

`key_step` and `step` are part of the numbers: changing them changes bits. What is measured says so, with its device,
shape and gain. The rest was chosen from what `make compile-triton` shows: registers, spills and shared memory.
"""

import functools
from dataclasses import dataclass, replace
from typing import Literal

from .launch import divide_up, round_up_to_power

WIDEST_HEAD = 256


@dataclass(frozen=True)
class AttentionConfiguration:
    """A tile of tree attention: query rows (tokens x query heads of one kv head), and keys of a softmax step.

    `reads` says how the keys of a step are read. "lists": each through the list of its block. "runs": those that lie
    side by side from their first token on, which lets steps be loaded ahead. "tma": the same by the Tensor Memory
    Accelerator of sm_90 and later. Bits do not depend on it.
    """

    rows: int
    key_step: int
    num_warps: int
    num_stages: int
    reads: Literal["lists", "runs", "tma"] = "runs"


@dataclass(frozen=True)
class GradientConfiguration:
    """Tiles of attention's gradient: by queries, as a forward's; by keys, `key_step` of them, in steps of `rows`."""

    queries: AttentionConfiguration
    keys: AttentionConfiguration


@dataclass(frozen=True)
class ExpertConfiguration:
    """A tile of an expert's product: rows and columns of the output, and inputs of a step.

    `step` is part of the numbers. SwiGLU has half of the columns of gate and half of up. 64 rows and 4 warps are the
    fewest that `wgmma` takes.
    """

    rows: int
    columns: int
    step: int
    num_warps: int
    num_stages: int


# An expert sees few rows: 175 of 2,802 tokens where 8 of 128 experts are chosen.
_EXPERT_TILE = ExpertConfiguration(64, 128, 64, 4, 3)
_FLOAT32_EXPERT_TILE = ExpertConfiguration(32, 64, 32, 4, 2)


def choose_expert_tile(architecture: str, element_bytes: int) -> ExpertConfiguration:
    """Returns the one tile of an architecture, so that a row has the same bits among any number of rows."""
    if element_bytes == 4:
        return _FLOAT32_EXPERT_TILE
    is_amd = architecture.startswith("gfx")
    return replace(_EXPERT_TILE, num_stages=2) if is_amd else _EXPERT_TILE


@dataclass(frozen=True)
class LinearConfiguration:
    """A tile of a product: rows and columns of the output, and inputs of a step.

    `has_descriptors`: it is loaded by tensor descriptors (TMA) where rows start at multiples of 16 bytes.
    `num_programs`: of one multiprocessor at a time, where shared memory has room for them.
    """

    rows: int
    columns: int
    step: int
    num_warps: int
    num_stages: int
    has_descriptors: bool = False
    num_programs: int = 1


def choose_row_warps(block: int) -> int:
    """Warps for a program that holds `block` columns of a row: 16 a thread, which is two loads of 16 bytes."""
    return min(max(block // 512, 1), 16)


# (architecture, widest head): the tile for two-byte activations and heads up to that width.
#
# Measured on an NVIDIA H200, bon8 (`benches/gpu/tiles.py`, benches/results/gpu_h200), for heads of 128 and 64 of sm_90.
# With 64 rows, 64 keys, 4 warps, 3 stages and "tma", 16 heads of 128 take 44 us, 32 take 81 us (344 TFLOP/s of visible
# pairs), 14 of 64 take 27 us: 12 to 24% less than with 128 rows and 8 warps, for the same bits. "runs" takes 18% more,
# "lists" 121%. Fewer rows waste less of a node's last tile. Bits are others with 8 warps of 64 rows, or 128 keys.
# Heads of 256 read lists on sm_80 and sm_89, since "runs" spills 260 to 930 bytes there.
_TILES = {
    ("sm_80", 64): AttentionConfiguration(128, 64, 8, 3),
    ("sm_80", 128): AttentionConfiguration(64, 64, 8, 3),
    ("sm_80", 256): AttentionConfiguration(64, 64, 8, 1, reads="lists"),
    ("sm_89", 64): AttentionConfiguration(128, 64, 8, 3),
    ("sm_89", 128): AttentionConfiguration(64, 64, 8, 2),
    ("sm_89", 256): AttentionConfiguration(64, 64, 8, 1, reads="lists"),
    ("sm_90", 64): AttentionConfiguration(64, 64, 4, 3, reads="tma"),
    ("sm_90", 128): AttentionConfiguration(64, 64, 4, 3, reads="tma"),
    ("sm_90", 256): AttentionConfiguration(64, 64, 8, 2, reads="tma"),
    ("sm_100", 64): AttentionConfiguration(128, 64, 8, 3, reads="tma"),
    ("sm_100", 128): AttentionConfiguration(128, 64, 8, 3, reads="tma"),
    ("sm_100", 256): AttentionConfiguration(64, 64, 8, 2, reads="tma"),
    ("gfx942", 64): AttentionConfiguration(128, 64, 4, 2),
    ("gfx942", 128): AttentionConfiguration(128, 64, 8, 1),
    ("gfx942", 256): AttentionConfiguration(64, 64, 4, 1),
}
# The same for the gradient, which keeps two products of a tile in registers at a time.
_GRADIENT_TILES = {
    ("sm_80", 64): (AttentionConfiguration(128, 32, 8, 2), AttentionConfiguration(32, 64, 4, 2)),
    ("sm_80", 128): (AttentionConfiguration(64, 32, 4, 2), AttentionConfiguration(32, 64, 4, 2)),
    ("sm_80", 256): (AttentionConfiguration(64, 32, 8, 1), AttentionConfiguration(32, 64, 8, 1)),
    ("sm_89", 64): (AttentionConfiguration(128, 32, 8, 2), AttentionConfiguration(32, 64, 4, 2)),
    ("sm_89", 128): (AttentionConfiguration(64, 32, 4, 1), AttentionConfiguration(32, 64, 4, 1)),
    ("sm_89", 256): (AttentionConfiguration(64, 32, 8, 1), AttentionConfiguration(16, 64, 8, 1)),
    ("sm_90", 64): (AttentionConfiguration(128, 64, 8, 3), AttentionConfiguration(64, 128, 8, 2)),
    ("sm_90", 128): (AttentionConfiguration(128, 64, 8, 2), AttentionConfiguration(32, 128, 8, 2)),
    ("sm_90", 256): (AttentionConfiguration(64, 32, 8, 1), AttentionConfiguration(32, 64, 8, 1)),
    ("sm_100", 64): (AttentionConfiguration(128, 64, 8, 3), AttentionConfiguration(32, 128, 8, 2)),
    ("sm_100", 128): (AttentionConfiguration(128, 64, 8, 2), AttentionConfiguration(64, 128, 8, 2)),
    ("sm_100", 256): (AttentionConfiguration(64, 32, 8, 1), AttentionConfiguration(32, 64, 8, 1)),
    ("gfx942", 64): (AttentionConfiguration(64, 64, 4, 1), AttentionConfiguration(64, 64, 4, 1)),
    ("gfx942", 128): (AttentionConfiguration(64, 32, 4, 1), AttentionConfiguration(32, 64, 4, 1)),
    ("gfx942", 256): (AttentionConfiguration(64, 32, 8, 1), AttentionConfiguration(32, 64, 8, 1)),
}
# Exact float32 products take the tensor cores of no architecture and four bytes an element: small tiles anywhere.
_FLOAT32_TILE = AttentionConfiguration(16, 32, 8, 1, reads="lists")
_FLOAT32_GRADIENT_TILES = (AttentionConfiguration(16, 16, 8, 1), _FLOAT32_TILE)
# The interpreter pays for each operation, not for its size.
INTERPRETER_TILE = AttentionConfiguration(128, 64, 4, 1, reads="tma")
INTERPRETER_GRADIENT_TILE = AttentionConfiguration(256, 128, 4, 1)

# Tiles of a product of two-byte numbers, the widest first. SwiGLU has half the columns of gate and half of up. All of
# an architecture have one step and one tensor instruction, on which bits depend: see `linear`. Of gfx942 only one is
# here, since Triton takes `mfma` of another shape for a smaller one.
_HOPPER_PRODUCTS = (
    LinearConfiguration(128, 256, 64, 8, 4, has_descriptors=True),
    LinearConfiguration(128, 128, 64, 8, 4, has_descriptors=True),
    LinearConfiguration(64, 128, 64, 4, 4, has_descriptors=True),
    LinearConfiguration(64, 64, 64, 4, 4, has_descriptors=True),
    LinearConfiguration(64, 32, 64, 4, 5, has_descriptors=True),
)
_AMPERE_PRODUCTS = (
    LinearConfiguration(128, 128, 64, 8, 3),
    LinearConfiguration(64, 128, 64, 4, 3),
    LinearConfiguration(64, 64, 64, 4, 3),
    LinearConfiguration(64, 32, 64, 4, 3),
)
_PRODUCTS = {
    "sm_80": _AMPERE_PRODUCTS,
    "sm_89": _AMPERE_PRODUCTS,
    "sm_90": _HOPPER_PRODUCTS,
    "sm_100": _HOPPER_PRODUCTS,
    "gfx942": (LinearConfiguration(128, 128, 64, 8, 2),),
    "interpreter": _HOPPER_PRODUCTS,
}
_FLOAT32_PRODUCTS = (LinearConfiguration(64, 64, 32, 8, 2),)  # with three stages SwiGLU spills on sm_89 and sm_120
# Multiplications that a multiprocessor of an H100 does while it gets a number from the L2 cache: 2048 a cycle, and 56
# bytes. Tiles of less work a number wait for it.
_PRODUCTS_PER_LOAD = 73


@functools.cache
def list_linear_configurations(architecture: str, element_bytes: int) -> tuple[LinearConfiguration, ...]:
    """Returns the tiles that give the same bits on this architecture, the widest first."""
    if architecture != "interpreter" and element_bytes == 4:
        return _FLOAT32_PRODUCTS
    tiles = _PRODUCTS.get(architecture) or _PRODUCTS[_choose_relative(architecture)]
    return tuple(replace(tile, step=2 * tile.step) for tile in tiles) if element_bytes == 1 else tiles


@functools.cache
def choose_linear_configuration(
    architecture: str, element_bytes: int, num_rows: int, num_outputs: int, num_processors: int
) -> LinearConfiguration:
    """Returns the tile whose waves over the processors take least, by arithmetic: the last wave is seldom full.

    2802 rows and 2048 outputs on 132 processors are 67% of two waves of 128 x 256, and 89% of three of 128 x 128.
    """

    def predict_time(tile: LinearConfiguration) -> int:
        num_tiles = divide_up(num_rows, tile.rows) * divide_up(num_outputs, tile.columns)
        work = max(tile.rows * tile.columns, _PRODUCTS_PER_LOAD * (tile.rows + tile.columns))
        return divide_up(num_tiles, num_processors) * work

    return min(list_linear_configurations(architecture, element_bytes), key=predict_time)


def choose_attention_tile(architecture: str, head_dim: int, element_bytes: int, group: int) -> AttentionConfiguration:
    """Returns the table's tile; for an architecture that is not in it, that of its nearest relative.

    `architecture` is "sm_90", "gfx942", ..., or "interpreter"; `group` the query heads of a kv head, all of which a
    token brings: a tile grows to hold one token at least.
    """
    if architecture == "interpreter":
        tile = INTERPRETER_TILE
    elif element_bytes == 4:
        tile = _FLOAT32_TILE
    else:
        tile = _TILES[_choose_relative(architecture), _choose_width(head_dim)]
    return _hold_token(tile, group)


def choose_gradient_tiles(architecture: str, head_dim: int, element_bytes: int, group: int) -> GradientConfiguration:
    """Returns the gradient's tiles; arguments as of `choose_attention_tile`."""
    if architecture == "interpreter":
        tiles = (INTERPRETER_GRADIENT_TILE, INTERPRETER_GRADIENT_TILE)
    elif element_bytes == 4:
        tiles = _FLOAT32_GRADIENT_TILES
    else:
        tiles = _GRADIENT_TILES[_choose_relative(architecture), _choose_width(head_dim)]
    return GradientConfiguration(*(_hold_token(tile, group) for tile in tiles))


def _hold_token(tile: AttentionConfiguration, group: int) -> AttentionConfiguration:
    return replace(tile, rows=max(tile.rows, round_up_to_power(group)))


def _choose_width(head_dim: int) -> int:
    return next(width for width in (64, 128, WIDEST_HEAD) if head_dim <= width)


def _choose_relative(architecture: str) -> str:
    if architecture.startswith("gfx"):
        return "gfx942"
    number = int(architecture.removeprefix("sm_"))
    # 8.6, 8.7 and 8.9 have 99 KiB of shared memory, as have 12.x, consumer cards with mma.sync alone.
    if number in (80, 90):
        return f"sm_{number}"
    if 100 <= number < 120:
        return "sm_100"
    return "sm_89"
