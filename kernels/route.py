"""The choice of each token's experts, and their weights: one program a token, which takes the largest logit C times."""

import triton.language as tl
from torch import Tensor

from .launch import Kernel, round_up_to_power


@Kernel
def route_kernel(
    logits,
    experts,
    weights,
    logits_stride,
    NUM_EXPERTS: tl.constexpr,
    NUM_CHOSEN: tl.constexpr,
    BLOCK: tl.constexpr,
    CHOSEN_BLOCK: tl.constexpr,
    IS_NORMALISED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    expert = tl.arange(0, BLOCK)
    is_left = expert < NUM_EXPERTS
    key = tl.load(logits + row * logits_stride + expert, is_left, float("-inf"))
    share = tl.exp(key - tl.max(key, axis=0))
    total = tl.sum(share, axis=0)
    share = share / total
    key = tl.where(total == total, key, 0.0)  # of a row that is NaN, the first experts
    place = tl.arange(0, CHOSEN_BLOCK)
    chosen = tl.zeros([CHOSEN_BLOCK], tl.int32)
    weight = tl.zeros([CHOSEN_BLOCK], tl.float32)
    for c in tl.static_range(NUM_CHOSEN):
        largest = tl.max(tl.where(is_left, key, float("-inf")), axis=0)
        first = tl.min(tl.where(is_left & (key == largest), expert, BLOCK), axis=0)
        chosen = tl.where(place == c, first, chosen)
        weight = tl.where(place == c, tl.sum(tl.where(expert == first, share, 0.0), axis=0), weight)
        is_left = is_left & (expert != first)
    if IS_NORMALISED:
        weight = weight / tl.sum(weight, axis=0)
    tl.store(experts + row * NUM_CHOSEN + place, chosen, place < NUM_CHOSEN)
    tl.store(weights + row * NUM_CHOSEN + place, weight, place < NUM_CHOSEN)


def route(logits_TX: Tensor, experts_TC: Tensor, weights_TC: Tensor, *, is_normalised: bool) -> None:
    """Writes the C experts of largest logit and their shares of softmax; see `ops.reference.route`.

    Dtypes: logits and weights float32, experts int32; the results are dense.
    """
    num_rows, num_experts = logits_TX.shape
    if num_rows == 0:
        return
    num_chosen = experts_TC.shape[1]
    route_kernel[(num_rows,)](
        logits_TX,
        experts_TC,
        weights_TC,
        logits_TX.stride(0),
        NUM_EXPERTS=num_experts,
        NUM_CHOSEN=num_chosen,
        BLOCK=round_up_to_power(num_experts),
        CHOSEN_BLOCK=round_up_to_power(num_chosen),
        IS_NORMALISED=is_normalised,
        num_warps=1,
    )
