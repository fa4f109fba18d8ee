"""A block of each row's logits into its running softmax: one program a row."""

import triton.language as tl
from torch import Tensor

from .launch import Kernel
from .tree_attention import apply_softcap

LOGITS_AT_ONCE = 4096
_LN_2 = tl.constexpr(0.6931471805599453)


@Kernel
def log_sum_exp_kernel(logits, running, stride, width, softcap, HAS_SOFTCAP: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    most = tl.load(running + row * 2)
    total = tl.load(running + row * 2 + 1)
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(logits + row * stride + at, at < width, 0.0).to(tl.float32)
        if HAS_SOFTCAP:
            x = apply_softcap(x, softcap, 1.0) * _LN_2
        x = tl.where(at < width, x, float("-inf"))
        new = tl.maximum(most, tl.max(x, axis=0))
        total = total * tl.exp(most - new) + tl.sum(tl.exp(x - new), axis=0)
        most = new
    tl.store(running + row * 2, most)
    tl.store(running + row * 2 + 1, total)


def log_sum_exp(logits_UV: Tensor, running_U2: Tensor, softcap: float | None) -> None:
    """Takes logits into (maximum, sum of exp(logit - maximum)) of their rows. Dtypes: running float32."""
    rows, width = logits_UV.shape
    if rows == 0:
        return
    log_sum_exp_kernel[(rows,)](
        logits_UV,
        running_U2,
        logits_UV.stride(0),
        width,
        softcap or 1.0,
        HAS_SOFTCAP=softcap is not None,
        BLOCK=LOGITS_AT_ONCE,
        num_warps=8,
    )
