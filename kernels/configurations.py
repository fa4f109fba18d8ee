"""How kernels are cut for an architecture: a written table, and a heuristic for what is not in it. Nothing is tuned.

None of these has been timed: they were chosen from what `make compile-triton` shows, which is registers, spills and
shared memory. `key_step` is part of the numbers: changing it changes bits.
"""

from dataclasses import dataclass, replace

WIDEST_HEAD = 256


@dataclass(frozen=True)
class AttentionConfiguration:
    """A tile of tree attention: query rows (tokens x query heads of one kv head), and keys of a softmax step.

    `has_tma`: keys that lie side by side come by the Tensor Memory Accelerator, which sm_90 and later have.
    """

    rows: int
    key_step: int
    num_warps: int
    num_stages: int
    has_tma: bool = False
    has_runs: bool = True


def choose_row_warps(block: int) -> int:
    """Warps for a program that holds `block` columns of a row: 16 a thread, which is two loads of 16 bytes."""
    return min(max(block // 512, 1), 16)


# (architecture, widest head): the tile for two-byte activations and heads up to that width. Larger tiles or fewer warps
# spill registers, by `make compile-triton`.
_TILES = {
    ("sm_80", 64): AttentionConfiguration(128, 64, 8, 3),
    ("sm_80", 128): AttentionConfiguration(64, 64, 8, 3),
    ("sm_80", 256): AttentionConfiguration(64, 64, 8, 1, has_runs=False),
    ("sm_89", 64): AttentionConfiguration(128, 64, 8, 3),
    ("sm_89", 128): AttentionConfiguration(64, 64, 8, 2),
    ("sm_89", 256): AttentionConfiguration(64, 64, 8, 1, has_runs=False),
    ("sm_90", 64): AttentionConfiguration(128, 64, 8, 3, has_tma=True),
    ("sm_90", 128): AttentionConfiguration(128, 64, 8, 3, has_tma=True),
    ("sm_90", 256): AttentionConfiguration(64, 64, 8, 2, has_tma=True),
    ("sm_100", 64): AttentionConfiguration(128, 64, 8, 3, has_tma=True),
    ("sm_100", 128): AttentionConfiguration(128, 64, 8, 3, has_tma=True),
    ("sm_100", 256): AttentionConfiguration(64, 64, 8, 2, has_tma=True),
    ("gfx942", 64): AttentionConfiguration(128, 64, 4, 2),
    ("gfx942", 128): AttentionConfiguration(128, 64, 8, 1),
    ("gfx942", 256): AttentionConfiguration(64, 64, 4, 1),
}
# Exact float32 products take the tensor cores of no architecture and four bytes an element: small tiles anywhere.
_FLOAT32_TILE = AttentionConfiguration(16, 32, 8, 1, has_runs=False)
# The interpreter pays for each operation, not for its size.
INTERPRETER_TILE = AttentionConfiguration(128, 64, 4, 1, has_tma=True)


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
        width = next(width for width in (64, 128, WIDEST_HEAD) if head_dim <= width)
        tile = _TILES[_choose_relative(architecture), width]
    return replace(tile, rows=max(tile.rows, 1 << (group - 1).bit_length()))


def _choose_relative(architecture: str) -> str:
    if architecture.startswith("gfx"):
        return "gfx942"
    number = int(architecture.removeprefix("sm_"))
    # 8.6, 8.7 and 8.9 have 99 KiB of shared memory, as have 12.x, consumer cards without the instructions of 10.x.
    if number in (80, 90):
        return f"sm_{number}"
    if 100 <= number < 120:
        return "sm_100"
    return "sm_89"
