"""QK-norm and rotary position embedding, in place on the fused q|k|v rows: one program a token and some heads.

The gradient: one program some tokens and some heads, so that sums by the norm weights have one order.
"""

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from .launch import Kernel, divide_up, round_up_to_power

HEADS_AT_ONCE = 16  # of a token, in one program: with heads of 128 a thread holds 8 rotated pairs
TOKENS_OF_A_SUM = 8  # whose gradients of the norm weights one program adds up, in order: part of the numbers


@Kernel
def qk_norm_rope_kernel(
    qkv,
    positions,
    cos,
    sin,
    q_norm,
    k_norm,
    qkv_stride,
    eps,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEADS: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    HAS_NORM: tl.constexpr,
):
    half: tl.constexpr = HEAD_DIM // 2
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    column = tl.arange(0, HALF_BLOCK)[None, :]
    in_half = column < half
    mask = (head < NUM_HEADS + NUM_KV_HEADS) & in_half
    first = qkv + token * qkv_stride + head * HEAD_DIM + column
    a = tl.load(first, mask, 0.0).to(tl.float32)
    b = tl.load(first + half, mask, 0.0).to(tl.float32)
    if HAS_NORM:
        inverse = tl.rsqrt(tl.sum(a * a + b * b, axis=1) / HEAD_DIM + eps)[:, None]
        is_query = head < NUM_HEADS
        a *= inverse * tl.where(
            is_query, tl.load(q_norm + column, in_half, 0.0), tl.load(k_norm + column, in_half, 0.0)
        )
        b *= inverse * tl.where(
            is_query, tl.load(q_norm + half + column, in_half, 0.0), tl.load(k_norm + half + column, in_half, 0.0)
        )
    angle = tl.load(positions + token) * half + column
    c, s = tl.load(cos + angle, in_half, 0.0), tl.load(sin + angle, in_half, 0.0)
    tl.store(first, a * c - b * s, mask)
    tl.store(first + half, b * c + a * s, mask)


def qk_norm_rope(
    qkv_TE: Tensor,
    heads: Any,
    positions_T: Tensor,
    rotary: tuple[Tensor, Tensor],
    q_norm_H: Tensor | None,
    k_norm_H: Tensor | None,
    eps: float,
) -> None:
    """Normalises each query and key head (with weights), then (a, b) -> (a cos - b sin, b cos + a sin) on its halves.

    `heads` are `ops.spec.Heads`, `rotary` cosine and sine.
    Shapes: tables [P, H / 2], contiguous. Dtypes: positions int32; tables and norm weights float32.
    """
    if len(qkv_TE) == 0:
        return
    assert (q_norm_H is None) == (k_norm_H is None), "a norm on queries and none on keys, or the other way round"
    cos, sin = rotary
    programs = divide_up(heads.num_heads + heads.num_kv_heads, HEADS_AT_ONCE)
    qk_norm_rope_kernel[(len(qkv_TE), programs)](
        qkv_TE,
        positions_T,
        cos,
        sin,
        q_norm_H,
        k_norm_H,
        qkv_TE.stride(0),
        eps,
        NUM_HEADS=heads.num_heads,
        NUM_KV_HEADS=heads.num_kv_heads,
        HEAD_DIM=heads.head_dim,
        HEADS=HEADS_AT_ONCE,
        HALF_BLOCK=round_up_to_power(heads.head_dim // 2),
        HAS_NORM=q_norm_H is not None,
        num_warps=4,
    )


@Kernel
def qk_norm_rope_backward_kernel(
    grad,
    before,
    positions,
    cos,
    sin,
    q_norm,
    k_norm,
    grad_qkv,
    grad_norms,
    before_stride,
    grad_stride,
    grad_qkv_stride,
    num_tokens,
    eps,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEADS: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    TOKENS: tl.constexpr,
    HAS_NORM: tl.constexpr,
):
    half: tl.constexpr = HEAD_DIM // 2
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    column = tl.arange(0, HALF_BLOCK)[None, :]
    in_half = column < half
    is_query, is_rotated = head < NUM_HEADS, head < NUM_HEADS + NUM_KV_HEADS
    mask = (head < NUM_HEADS + 2 * NUM_KV_HEADS) & in_half  # values pass as they are
    at = head * HEAD_DIM + column
    if HAS_NORM:
        q_first, q_second = tl.load(q_norm + column, in_half, 0.0), tl.load(q_norm + half + column, in_half, 0.0)
        k_first, k_second = tl.load(k_norm + column, in_half, 0.0), tl.load(k_norm + half + column, in_half, 0.0)
        first_weight, second_weight = tl.where(is_query, q_first, k_first), tl.where(is_query, q_second, k_second)
        first_total = tl.zeros([HEADS, HALF_BLOCK], tl.float32)
        second_total = tl.zeros([HEADS, HALF_BLOCK], tl.float32)
    first = tl.program_id(0).to(tl.int64) * TOKENS
    for token in range(first, tl.minimum(first + TOKENS, num_tokens)):
        a = tl.load(grad + token * grad_stride + at, mask, 0.0).to(tl.float32)
        b = tl.load(grad + token * grad_stride + half + at, mask, 0.0).to(tl.float32)
        angle = tl.load(positions + token) * half + column
        c = tl.where(is_rotated, tl.load(cos + angle, in_half, 0.0), 1.0)
        s = tl.where(is_rotated, tl.load(sin + angle, in_half, 0.0), 0.0)
        da, db = a * c + b * s, b * c - a * s
        if HAS_NORM:
            x = tl.load(before + token * before_stride + at, mask & is_rotated, 0.0).to(tl.float32)
            y = tl.load(before + token * before_stride + half + at, mask & is_rotated, 0.0).to(tl.float32)
            inverse = tl.rsqrt(tl.sum(x * x + y * y, axis=1) / HEAD_DIM + eps)[:, None]
            x, y = x * inverse, y * inverse
            first_total += da * x
            second_total += db * y
            ga, gb = da * first_weight, db * second_weight
            mean = (tl.sum(ga * x + gb * y, axis=1) / HEAD_DIM)[:, None]
            da = tl.where(is_rotated, (ga - x * mean) * inverse, da)
            db = tl.where(is_rotated, (gb - y * mean) * inverse, db)
        target = grad_qkv + token * grad_qkv_stride + at
        tl.store(target, da, mask)
        tl.store(target + half, db, mask)
    if HAS_NORM:  # values add 0 to the sums of the keys: their x is 0
        sums = grad_norms + (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * 2 * HEAD_DIM
        where, in_row = tl.arange(0, HALF_BLOCK), tl.arange(0, HALF_BLOCK) < half
        tl.store(sums + where, tl.sum(tl.where(is_query, first_total, 0.0), axis=0), in_row)
        tl.store(sums + half + where, tl.sum(tl.where(is_query, second_total, 0.0), axis=0), in_row)
        tl.store(sums + HEAD_DIM + where, tl.sum(tl.where(is_query, 0.0, first_total), axis=0), in_row)
        tl.store(sums + HEAD_DIM + half + where, tl.sum(tl.where(is_query, 0.0, second_total), axis=0), in_row)


def qk_norm_rope_backward(
    before_TE: Tensor | None,
    heads: Any,
    positions_T: Tensor,
    rotary: tuple[Tensor, Tensor],
    q_norm_H: Tensor | None,
    k_norm_H: Tensor | None,
    eps: float,
    grad_TE: Tensor,
    grad_qkv_TE: Tensor,
) -> Tensor | None:
    """Writes the gradient by qkv, and returns those by the norm weights, one below the other, None without a norm.

    Rotates back, and then goes through each head's norm as `rms_norm_backward` does; all in one pass over memory.
    `before` is qkv, or its query and key part, as the forward found it; without a norm nothing is asked of it.
    Shapes: returns [2, H]. Dtypes: before and gradients activations; the result float32.
    """
    num_tokens, has_norm = len(grad_TE), before_TE is not None
    assert has_norm == (q_norm_H is not None) == (k_norm_H is not None), "a norm on queries and none on keys"
    cos, sin = rotary
    grid = (
        divide_up(num_tokens, TOKENS_OF_A_SUM),
        divide_up(heads.num_heads + 2 * heads.num_kv_heads, HEADS_AT_ONCE),
    )
    sums = grad_TE.new_empty(grid[0] * grid[1], 2, heads.head_dim, dtype=torch.float32) if has_norm else None
    if num_tokens:
        qk_norm_rope_backward_kernel[grid](
            grad_TE,
            before_TE,
            positions_T,
            cos,
            sin,
            q_norm_H,
            k_norm_H,
            grad_qkv_TE,
            sums,
            0 if before_TE is None else before_TE.stride(0),
            grad_TE.stride(0),
            grad_qkv_TE.stride(0),
            num_tokens,
            eps,
            NUM_HEADS=heads.num_heads,
            NUM_KV_HEADS=heads.num_kv_heads,
            HEAD_DIM=heads.head_dim,
            HEADS=HEADS_AT_ONCE,
            HALF_BLOCK=round_up_to_power(heads.head_dim // 2),
            TOKENS=TOKENS_OF_A_SUM,
            HAS_NORM=has_norm,
            num_warps=4,
        )
    return None if sums is None else sums.sum(dim=0)
