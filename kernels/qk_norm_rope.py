"""QK-norm and rotary position embedding, in place on the fused q|k|v rows: one program a token and some heads."""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

HEADS_AT_ONCE = 16  # of a token, in one program: with heads of 128 a thread holds 8 rotated pairs


@triton.jit
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
    programs = triton.cdiv(heads.num_heads + heads.num_kv_heads, HEADS_AT_ONCE)
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
        HALF_BLOCK=triton.next_power_of_2(heads.head_dim // 2),
        HAS_NORM=q_norm_H is not None,
        num_warps=4,
    )
