"""Mixtures of experts: each token through the MLPs of its own experts, in four launches whatever their number.

The rows of a product are (token, place) pairs, where a place is that of an expert among the token's C. The pairs are
sorted by expert on the device, and each expert's pairs are cut into tiles. The host does not wait to learn how many
tiles there are: as many programs start as there can be, and those past the last tile end at once.

A row keeps its bits in any batch. One accumulator takes an output's inputs from first to last, in steps of one size.
All tiles have one shape and one tensor instruction, and rows of a tile never mix. The outputs of a token's experts are
added up in the order of its places, in float32.
"""

import triton
import triton.language as tl
from torch import Tensor

from .configurations import ExpertConfiguration
from .glu import apply_glu
from .launch import Kernel, divide_up, round_up_to_power

PAIRS_AT_ONCE = 1024  # that a program of `group_pairs_kernel` looks at
COLUMNS_AT_ONCE = 1024  # of a token, in one program of `combine_kernel`


@Kernel
def group_pairs_kernel(experts, order, ends, num_pairs, BLOCK: tl.constexpr):
    """Writes the pairs of one expert, in their order, behind those of the experts before it; and where its end."""
    expert = tl.program_id(0)
    end = 0
    for start in range(0, num_pairs, BLOCK):
        pair = start + tl.arange(0, BLOCK)
        chosen = tl.load(experts + pair, pair < num_pairs, expert)
        end += tl.sum((chosen < expert).to(tl.int32), axis=0)
    for start in range(0, num_pairs, BLOCK):
        pair = start + tl.arange(0, BLOCK)
        is_own = tl.load(experts + pair, pair < num_pairs, -1) == expert
        tl.store(order + end + tl.cumsum(is_own.to(tl.int32), axis=0) - 1, pair, is_own)
        end += tl.sum(is_own.to(tl.int32), axis=0)
    tl.store(ends + expert, end)


@triton.jit
def _find_tile(ends, tile, ROWS: tl.constexpr, NUM_EXPERTS: tl.constexpr, BLOCK: tl.constexpr):
    """Returns a tile's expert, first row and the end of the expert's rows; no rows where there are fewer tiles."""
    expert = tl.arange(0, BLOCK)
    end = tl.load(ends + expert, expert < NUM_EXPERTS, 0)
    start = tl.load(ends + expert - 1, (expert > 0) & (expert < NUM_EXPERTS), 0)
    last_tile = tl.cumsum((end - start + ROWS - 1) // ROWS, axis=0)
    own = tl.sum((last_tile <= tile).to(tl.int32), axis=0)
    first_tile = tl.sum(tl.where(expert == own - 1, last_tile, 0), axis=0)
    first_row = tl.sum(tl.where(expert == own, start, 0), axis=0) + (tile - first_tile) * ROWS
    return own, first_row, tl.sum(tl.where(expert == own, end, 0), axis=0)


@Kernel
def multiply_experts_kernel(
    x,
    weight,
    order,
    ends,
    y,
    x_stride,
    num_inputs,
    num_outputs,
    NUM_EXPERTS: tl.constexpr,
    NUM_CHOSEN: tl.constexpr,
    EXPERTS_BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
    HAS_GLU: tl.constexpr,
    IS_GELU: tl.constexpr,
    IS_EVEN: tl.constexpr,
):
    """One tile. With HAS_GLU rows are read from their tokens and written as they are sorted; without, the reverse.

    With HAS_GLU the product has a tile's columns of gate and, behind them, those of up.
    """
    NUM_PARTS: tl.constexpr = 2 if HAS_GLU else 1
    column_tiles = tl.cdiv(num_outputs, COLUMNS)
    tile, column_tile = tl.program_id(0) // column_tiles, tl.program_id(0) % column_tiles
    expert, first_row, end = _find_tile(ends, tile, ROWS, NUM_EXPERTS, EXPERTS_BLOCK)
    if first_row < end:
        row = first_row + tl.arange(0, ROWS)
        pair = tl.load(order + row, row < end, 0)
        source = (pair // NUM_CHOSEN if HAS_GLU else row).to(tl.int64)
        target = (row if HAS_GLU else pair).to(tl.int64)
        column = column_tile * COLUMNS + tl.arange(0, COLUMNS)
        is_row, is_column = (row < end)[:, None], (column < num_outputs)[None, :]
        inputs = tl.arange(0, STEP)
        weights = weight + expert.to(tl.int64) * num_outputs * num_inputs * NUM_PARTS
        a_place = x + source[:, None] * x_stride + inputs[None, :]
        of_parts = tl.arange(0, NUM_PARTS * COLUMNS)
        of_part = column_tile * COLUMNS + of_parts % COLUMNS
        weight_row = (of_parts // COLUMNS * num_outputs + of_part).to(tl.int64)
        b_place = weights + weight_row[None, :] * num_inputs + inputs[:, None]
        acc = tl.zeros([ROWS, NUM_PARTS * COLUMNS], tl.float32)
        for k in range(0, num_inputs, STEP):
            a_mask, b_mask = is_row, (of_part < num_outputs)[None, :]
            if not IS_EVEN:
                is_input = k + inputs < num_inputs
                a_mask, b_mask = a_mask & is_input[None, :], b_mask & is_input[:, None]
            a = tl.load(a_place + k, a_mask, 0.0)
            acc = tl.dot(a, tl.load(b_place + k, b_mask, 0.0), acc, input_precision="ieee")
        if HAS_GLU:
            gate, up = tl.split(tl.permute(tl.reshape(acc, [ROWS, 2, COLUMNS]), [0, 2, 1]))
            acc = apply_glu(gate, up, IS_GELU)
        place = y + target[:, None] * num_outputs + column[None, :]
        tl.store(place, acc.to(y.dtype.element_ty), is_row & is_column)


@Kernel
def combine_kernel(outputs, weights, y, y_stride, width, NUM_CHOSEN: tl.constexpr, BLOCK: tl.constexpr):
    """One token and some of its columns."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < width
    acc = tl.zeros([BLOCK], tl.float32)
    for c in range(NUM_CHOSEN):
        pair = token * NUM_CHOSEN + c
        acc += tl.load(weights + pair) * tl.load(outputs + pair * width + column, mask, 0.0).to(tl.float32)
    tl.store(y + token * y_stride + column, acc.to(y.dtype.element_ty), mask)


def expert_mlp(
    x_TD: Tensor,
    experts_TC: Tensor,
    weights_TC: Tensor,
    gate_up_XFD: Tensor,
    down_XDF: Tensor,
    y_TD: Tensor,
    configuration: ExpertConfiguration,
    *,
    is_gelu: bool,
) -> None:
    """Writes the weighted sum of what a token's experts make of it; see `ops.reference.expert_mlp`.

    Shapes: gate_up [X, 2F, D], gate first; down [X, D, F]. Dtypes: y and the experts' weights as x. Experts and their
    weights are dense.
    """
    (num_tokens, num_chosen), (num_experts, width, ffn) = experts_TC.shape, down_XDF.shape
    if num_tokens == 0:
        return
    num_pairs = num_tokens * num_chosen
    order, ends = experts_TC.new_empty(num_pairs), experts_TC.new_empty(num_experts)
    group_pairs_kernel[(num_experts,)](experts_TC, order, ends, num_pairs, BLOCK=PAIRS_AT_ONCE, num_warps=4)
    num_tiles = num_pairs // configuration.rows + min(num_experts, num_pairs)

    def multiply(x: Tensor, weight: Tensor, y: Tensor, columns: int, has_glu: bool) -> None:
        multiply_experts_kernel[(num_tiles * divide_up(y.shape[1], columns),)](
            x,
            weight,
            order,
            ends,
            y,
            x.stride(0),
            x.shape[1],
            y.shape[1],
            NUM_EXPERTS=num_experts,
            NUM_CHOSEN=num_chosen,
            EXPERTS_BLOCK=round_up_to_power(num_experts),
            ROWS=configuration.rows,
            COLUMNS=columns,
            STEP=configuration.step,
            HAS_GLU=has_glu,
            IS_GELU=is_gelu and has_glu,
            IS_EVEN=x.shape[1] % configuration.step == 0,
            num_warps=configuration.num_warps,
            num_stages=configuration.num_stages,
        )

    hidden, outputs = x_TD.new_empty(num_pairs, ffn), x_TD.new_empty(num_pairs, width)
    multiply(x_TD, gate_up_XFD, hidden, configuration.columns // 2, has_glu=True)
    multiply(hidden, down_XDF, outputs, configuration.columns, has_glu=False)
    combine_kernel[(num_tokens, divide_up(width, COLUMNS_AT_ONCE))](
        outputs,
        weights_TC,
        y_TD,
        y_TD.stride(0),
        width,
        NUM_CHOSEN=num_chosen,
        BLOCK=min(round_up_to_power(width), COLUMNS_AT_ONCE),
        num_warps=4,
    )
