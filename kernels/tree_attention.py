"""Causal attention over the packed prefix tree, flash style, in one launch: one program a query tile and kv head.

A tile holds query tokens of one node, each with all query heads of its kv head, and walks the keys of the node's path
where they lie in the packed batch, in steps at absolute multiples of `key_step`; nothing is gathered or copied first.
The keys of most steps lie side by side: they are read by their first token, on a card with the unit for it by TMA, and
several steps ahead. A step that straddles nodes is read through the lists of its blocks, a key at a time.

Rows of a tile never mix; a key that a row may not see has weight exactly 0. So a row's bits depend on its own path
alone, whatever tile, batch or tree it stands in, and however its keys are read. (Only for a row that sees an infinite
value with a weight that underflowed to 0 may the tile decide between infinity and NaN.) That rests on two things
more: products of a row do not depend on its place in the tile, and the compiler fuses no multiplication into an
addition in one of the loops below that it leaves alone in another (`enable_fp_fusion=False`; where one is wanted it is
written).

A weight of 0 does not hide a NaN or an infinite value: 0 * NaN is NaN. To look at each value first would cost every
step. So the sums are looked at last, and a tile that is not finite is computed again, with care.
"""

from functools import partial
from typing import Any

import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from . import is_aligned
from .configurations import AttentionConfiguration
from .launch import Kernel, round_up_to_power

_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def apply_softcap(logits, softcap, scale):
    """Softcap * tanh(logits * scale / softcap), in units of log 2."""
    x = logits * (scale / softcap)
    e = tl.exp2(tl.abs(x) * (-2.0 * _LOG2_E))
    tanh = tl.where(x < 0.0, -1.0, 1.0) * (1.0 - e) / (1.0 + e)
    return tl.where(tl.abs(x) < 0.125, x - x * x * x * (1.0 / 3.0 - x * x * (2.0 / 15.0)), tanh) * (softcap * _LOG2_E)


@triton.jit
def _take_keys(q, k, row_max, row_sum, acc, step, rows, options, STEP: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
            HAS_WINDOW: tl.constexpr):  # fmt: skip
    """Takes the keys at positions [step, step + STEP) into a tile's running softmax.

    Returns their weights, the maximum and the sum of each row, and `acc` for the new maximum.
    """
    position, first_position = rows
    scale, softcap, window = options
    x = tl.dot(q, tl.trans(k), input_precision="ieee")
    if HAS_SOFTCAP:
        x = apply_softcap(x, softcap, scale)
    # Every row of the tile sees all keys of most steps. The branch holds no load, so it does not break the pipeline.
    if HAS_WINDOW or step + STEP > first_position + 1:
        distance = (position - step)[:, None] - tl.arange(0, STEP)[None, :]
        is_seen = distance >= 0
        if HAS_WINDOW:
            is_seen = is_seen & (distance < window)
        x = tl.where(is_seen, x, float("-inf"))
    factor = 1.0 if HAS_SOFTCAP else scale * _LOG2_E
    new_max = tl.maximum(row_max, tl.max(x, axis=1) * factor)
    # While a row has seen no key the maximum is -inf, and -inf - (-inf) would be NaN.
    shift = tl.where(new_max == float("-inf"), 0.0, new_max)
    p = tl.exp2(tl.fma(x, factor, -shift[:, None]))
    rescale = tl.exp2(row_max - shift)
    return p, new_max, row_sum * rescale + tl.sum(p, axis=1), acc * rescale[:, None]


@triton.jit
def _attend_run(q, row_max, row_sum, acc, at, stop, steps, sources, rows, options, HEAD_DIM: tl.constexpr,
            HEAD_BLOCK: tl.constexpr, STEP: tl.constexpr, HAS_SOFTCAP: tl.constexpr, HAS_WINDOW: tl.constexpr,
            HAS_TMA: tl.constexpr):  # fmt: skip
    """Attends to steps [at, stop), the keys of each side by side; `sources` are `(qkv, its descriptor, columns, ...)`.

    A step may run on past the path, into other tokens, or past the last one: no row sees those.
    """
    qkv, descriptor, key_column, value_column, qkv_stride, num_keys = sources
    column = tl.arange(0, HEAD_BLOCK)[None, :]
    # Read a step before it is needed: the pipeline takes a load in the loop that another waits for as a stage.
    first_token = tl.load(steps + 2 * at)
    for i in tl.range(at, stop):
        if HAS_TMA:
            k = descriptor.load([first_token, key_column])
        else:
            token = tl.minimum(first_token + tl.arange(0, STEP), num_keys - 1)
            row = qkv + token.to(tl.int64)[:, None] * qkv_stride + column
            if HEAD_DIM == HEAD_BLOCK:
                k = tl.load(row + key_column)
            else:
                k = tl.load(row + key_column, column < HEAD_DIM, 0.0)
        p, row_max, row_sum, acc = _take_keys(q, k, row_max, row_sum, acc, i * STEP, rows, options, STEP, HAS_SOFTCAP,
                                       HAS_WINDOW)  # fmt: skip
        if HAS_TMA:
            v = descriptor.load([first_token, value_column])
        elif HEAD_DIM == HEAD_BLOCK:
            v = tl.load(row + value_column)
        else:
            v = tl.load(row + value_column, column < HEAD_DIM, 0.0)
        acc = tl.dot(p.to(v.dtype), v, acc, input_precision="ieee")
        first_token = tl.load(steps + 2 * (i + 1))
    return row_max, row_sum, acc


@triton.jit
def _add_nonfinite(acc, step, lists, sources, rows, window, HEAD_DIM: tl.constexpr, HEAD_BLOCK: tl.constexpr,
            KEY_BLOCK: tl.constexpr, STEP: tl.constexpr, HAS_WINDOW: tl.constexpr):  # fmt: skip
    """Adds the NaN and infinite values of one step to the rows that see them: rare, so a key at a time."""
    blocks, block_tokens, end = lists
    qkv, _, _, value_column, qkv_stride, _ = sources
    column = tl.arange(0, HEAD_BLOCK)[None, :]
    for key in range(step, tl.minimum(step + STEP, end)):
        token = tl.load(block_tokens + tl.load(blocks + key // KEY_BLOCK) * KEY_BLOCK + key % KEY_BLOCK)
        row = qkv + token.to(tl.int64) * qkv_stride + value_column
        v = tl.load(row + column, column < HEAD_DIM, 0.0).to(tl.float32)
        is_seen = rows[0] >= key
        if HAS_WINDOW:
            is_seen = is_seen & (rows[0] - key < window)
        acc += tl.where(is_seen[:, None] & ~(tl.abs(v) < float("inf")), v, 0.0)
    return acc


@triton.jit
def _attend_listed(q, row_max, row_sum, acc, step, lists, sources, rows, options, HEAD_DIM: tl.constexpr,
            HEAD_BLOCK: tl.constexpr, KEY_BLOCK: tl.constexpr, STEP: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
            HAS_WINDOW: tl.constexpr, IS_CAREFUL: tl.constexpr):  # fmt: skip
    """Attends to the keys of one step, wherever they lie.

    If `IS_CAREFUL`, NaN and infinite values go a way of their own, for 0 * NaN would bring them to rows that do not see
    them.
    """
    blocks, block_tokens, end = lists
    qkv, _, key_column, value_column, qkv_stride, _ = sources
    column = tl.arange(0, HEAD_BLOCK)[None, :]
    key = step + tl.arange(0, STEP)
    block = tl.load(blocks + key // KEY_BLOCK, key < end, 0)
    token = tl.load(block_tokens + block * KEY_BLOCK + key % KEY_BLOCK, key < end, -1)
    row = qkv + token.to(tl.int64)[:, None] * qkv_stride + column
    mask = (token >= 0)[:, None] & (column < HEAD_DIM)
    k = tl.load(row + key_column, mask, 0.0)
    p, row_max, row_sum, acc = _take_keys(q, k, row_max, row_sum, acc, step, rows, options, STEP, HAS_SOFTCAP,
                                   HAS_WINDOW)  # fmt: skip
    p = p.to(k.dtype)
    v = tl.load(row + value_column, mask, 0.0)
    if IS_CAREFUL:
        is_finite = tl.abs(v) < float("inf")
        if tl.min(tl.min(is_finite.to(tl.int32), axis=1), axis=0) == 0:
            acc = _add_nonfinite(acc, step, lists, sources, rows, options[2], HEAD_DIM, HEAD_BLOCK, KEY_BLOCK, STEP,
                          HAS_WINDOW)  # fmt: skip
        v = tl.where(is_finite, v, 0.0)
    return row_max, row_sum, tl.dot(p, v, acc, input_precision="ieee")


@partial(Kernel, do_not_specialize=["num_keys", "num_rows"])  # or one batch in sixteen would have a kernel of its own
def tree_attention_kernel(
    qkv,
    descriptor,
    block_tokens,
    node_blocks,
    steps,
    tiles,
    out,
    log_sums,
    num_keys,
    qkv_stride,
    out_stride,
    num_rows,
    scale,
    softcap,
    window,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_LOG_SUMS: tl.constexpr,
    HAS_RUNS: tl.constexpr,
    HAS_TMA: tl.constexpr,
):
    group: tl.constexpr = NUM_HEADS // NUM_KV_HEADS
    tile = tiles + tl.program_id(0) // NUM_KV_HEADS * 5
    kv_head = tl.program_id(0) % NUM_KV_HEADS
    first_block, first_token, num_tokens, out_row = (
        tl.load(tile),
        tl.load(tile + 1),
        tl.load(tile + 2),
        tl.load(tile + 3),
    )
    first_position = tl.load(tile + 4)
    end = first_position + num_tokens

    token = tl.arange(0, ROWS) // group
    column = tl.arange(0, HEAD_BLOCK)[None, :]
    mask = (token < num_tokens)[:, None] & (column < HEAD_DIM)
    head_column = ((kv_head * group + tl.arange(0, ROWS) % group) * HEAD_DIM)[:, None] + column
    q = tl.load(qkv + (first_token + token).to(tl.int64)[:, None] * qkv_stride + head_column, mask, 0.0)
    key_column = (NUM_HEADS + kv_head) * HEAD_DIM
    sources = (qkv, descriptor, key_column, key_column + NUM_KV_HEADS * HEAD_DIM, qkv_stride, num_keys)
    lists = (node_blocks + first_block, block_tokens, end)
    rows = (first_position + token, first_position)
    options = (scale, softcap, window)
    steps += first_block * (2 * max(KEY_BLOCK // STEP, 1))

    at = tl.maximum(first_position - window + 1, 0) // STEP if HAS_WINDOW else 0
    begin = at * STEP
    num_steps = tl.cdiv(end, STEP)
    row_max = tl.full([ROWS], float("-inf"), tl.float32)
    row_sum = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, HEAD_BLOCK], tl.float32)
    if HAS_RUNS:
        while at < num_steps:
            stop = tl.minimum(tl.load(steps + 2 * at + 1), num_steps)
            row_max, row_sum, acc = _attend_run(q, row_max, row_sum, acc, at, stop, steps, sources, rows, options,
                                         HEAD_DIM, HEAD_BLOCK, STEP, HAS_SOFTCAP, HAS_WINDOW, HAS_TMA)  # fmt: skip
            if stop < num_steps:
                row_max, row_sum, acc = _attend_listed(q, row_max, row_sum, acc, stop * STEP, lists, sources, rows,
                                             options, HEAD_DIM, HEAD_BLOCK, KEY_BLOCK, STEP, HAS_SOFTCAP, HAS_WINDOW,
                                             IS_CAREFUL=False)  # fmt: skip
            at = stop + 1
    if not HAS_RUNS or tl.max((~(tl.abs(tl.sum(acc, axis=1)) < float("inf"))).to(tl.int32), axis=0) > 0:
        row_max = tl.full([ROWS], float("-inf"), tl.float32)
        row_sum = tl.zeros([ROWS], tl.float32)
        acc = tl.zeros([ROWS, HEAD_BLOCK], tl.float32)
        # Loading ahead for what is rare would cost registers.
        for step in tl.range(begin, end, STEP, num_stages=1 if HAS_RUNS else None):
            row_max, row_sum, acc = _attend_listed(q, row_max, row_sum, acc, step, lists, sources, rows, options,
                                         HEAD_DIM, HEAD_BLOCK, KEY_BLOCK, STEP, HAS_SOFTCAP, HAS_WINDOW,
                                         IS_CAREFUL=True)  # fmt: skip
    target = out + (out_row + token).to(tl.int64)[:, None] * out_stride + head_column
    tl.store(target, acc / row_sum[:, None], mask)
    if HAS_LOG_SUMS:
        vector = log_sums + (kv_head.to(tl.int64) * num_rows + out_row) * group + tl.arange(0, ROWS)
        tl.store(vector, row_max + tl.log2(row_sum), token < num_tokens)


def tree_attention(
    qkv_TE: Tensor,
    spec: Any,
    block_tokens: Tensor,
    node_blocks: Tensor,
    steps: Tensor,
    tiles: Tensor,
    out: Tensor,
    configuration: AttentionConfiguration,
    log_sums_KRG: Tensor | None = None,
) -> None:
    """Writes each query token's attention to its own path; see `ops.reference.tree_attention` for the formula.

    `spec` is an `ops.spec.AttentionSpec`.

    Shapes: block_tokens [C, key block]; tiles [., 5], longest path first, each row (first_block, first_token,
    num_tokens, out_row, first_position): tokens of one node, whose path's key blocks stand from
    node_blocks[first_block] on. A tile has at most `configuration.rows // group` tokens. steps [., 2]: where the keys
    of each path lie, in steps of `configuration.key_step`; see `ops.plan.TreeBatch.plan_steps`.
    `log_sums`, where given, gets the base-2 logarithm of each row's softmax sum, which the gradient reads; G is the
    query heads of a kv head.
    Dtypes: integers int32; out as qkv; log_sums float32.
    """
    if len(tiles) == 0:
        return
    heads = spec.heads
    head_block = max(round_up_to_power(heads.head_dim), 16)
    has_tma = configuration.reads == "tma" and head_block == heads.head_dim and is_aligned(qkv_TE)
    block = [configuration.key_step, head_block]
    tree_attention_kernel[(len(tiles) * heads.num_kv_heads,)](
        qkv_TE,
        TensorDescriptor.from_tensor(qkv_TE, block) if has_tma else None,
        block_tokens,
        node_blocks,
        steps,
        tiles,
        out,
        log_sums_KRG,
        len(qkv_TE),
        qkv_TE.stride(0),
        out.stride(0),
        len(out),
        spec.scale,
        spec.softcap or 0.0,
        spec.window or 0,
        NUM_HEADS=heads.num_heads,
        NUM_KV_HEADS=heads.num_kv_heads,
        HEAD_DIM=heads.head_dim,
        HEAD_BLOCK=head_block,
        KEY_BLOCK=block_tokens.shape[1],
        ROWS=configuration.rows,
        STEP=configuration.key_step,
        HAS_SOFTCAP=spec.softcap is not None,
        HAS_WINDOW=spec.window is not None,
        HAS_LOG_SUMS=log_sums_KRG is not None,
        HAS_RUNS=configuration.reads != "lists",
        HAS_TMA=has_tma,
        num_warps=configuration.num_warps,
        num_stages=configuration.num_stages,
        enable_fp_fusion=False,
    )
