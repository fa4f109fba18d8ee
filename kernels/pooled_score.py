"""Pooling, final norm and score head, in float32 throughout: one program a sequence."""

import triton.language as tl
from torch import Tensor

from .configurations import choose_row_warps
from .launch import Kernel, round_up_to_power


@Kernel
def pooled_score_kernel(
    x,
    residual,
    rows,
    norm_weight,
    head_weight,
    head_bias,
    features,
    scores,
    x_stride,
    residual_stride,
    features_stride,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_HEAD: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    sequence = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + sequence)
    columns = tl.arange(0, BLOCK)
    mask = columns < WIDTH
    z = tl.load(residual + row * residual_stride + columns, mask, 0.0)
    z += tl.load(x + row * x_stride + columns, mask, 0.0).to(tl.float32)
    inverse = tl.rsqrt(tl.sum(z * z, axis=0) / WIDTH + eps)
    feature = z * inverse * tl.load(norm_weight + columns, mask, 0.0)
    tl.store(features + sequence * features_stride + columns, feature, mask)
    if HAS_HEAD:
        score = tl.sum(feature * tl.load(head_weight + columns, mask, 0.0), axis=0)
        if HAS_BIAS:
            score += tl.load(head_bias)
        tl.store(scores + sequence, score)


def pooled_score(
    x_UD: Tensor,
    residual_UD: Tensor,
    rows_B: Tensor,
    norm_weight_D: Tensor,
    eps: float,
    head_weight_1D: Tensor | None,
    head_bias_1: Tensor | None,
    features_BD: Tensor,
    scores_B: Tensor | None,
) -> None:
    """Writes feature_b = rms_norm((residual + x)[rows_b]) and, with a head, score_b = w . feature_b + bias.

    Dtypes: all float32 but x (an activation) and rows (int64).
    """
    count, width = features_BD.shape
    if count == 0:
        return
    block = round_up_to_power(width)
    pooled_score_kernel[(count,)](
        x_UD,
        residual_UD,
        rows_B,
        norm_weight_D,
        head_weight_1D,
        head_bias_1,
        features_BD,
        scores_B,
        x_UD.stride(0),
        residual_UD.stride(0),
        features_BD.stride(0),
        eps,
        WIDTH=width,
        BLOCK=block,
        HAS_HEAD=head_weight_1D is not None,
        HAS_BIAS=head_bias_1 is not None,
        num_warps=choose_row_warps(block),
    )
