"""Pure PyTorch definitions of every operation: the truth that the other backends are tested against.

Written to be read. Each runs on any device; arithmetic is in float32, or in float64 where inputs are float64,
and rounds once, to the dtype of its result. Shape legend: `ops.backend`.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from codescaler.ops.backend import Backend
from codescaler.ops.linear import ExpertWeights, LinearWeights, PackedLinear, PlainFormat
from codescaler.ops.spec import AttentionSpec, Heads, RotaryTables, Routing
from codescaler.ops.tree import Tree
from codescaler.types import HADAMARD_BLOCK, Activation, ActivationBits, Fp8Scheme, QuantScheme

LARGEST_FP8 = 448.0  # that e4m3 holds


def linear(x_TI: Tensor, weights: LinearWeights) -> Tensor:
    """Y = x W^T + b. Shapes: x [T, I] -> [T, O]. Dtypes: all the same."""
    return functional.linear(x_TI, weights.weight, weights.bias)


def int8_linear(x_TI: Tensor, weights: LinearWeights, scheme: QuantScheme) -> Tensor:
    """Y = s scale (q W^T) + b with q = round(x / s), s = max |x| / steps over each row, 1 for a row of zeros.

    With `has_hadamard`, x goes through `apply_hadamard` first, as the weight has.

    The sum is of integers, hence exact in any order. A row with a value that is not finite becomes NaN, and behind a
    Hadamard transform a row whose sums of 64 leave the range of the dtype.
    Shapes: x [T, I] -> [T, O]. Dtypes: y as x.
    Source: Dettmers et al. 2022, arXiv:2208.07339, sec. 2.1 (vector-wise quantization), without its decomposition.
    """
    x = apply_hadamard(_upcast(x_TI)) if scheme.has_hadamard else _upcast(x_TI)
    size_T1 = x.abs().amax(dim=1, keepdim=True)
    num_steps = count_int8_steps(x.shape[1], scheme.bits)
    steps = x.new_tensor(num_steps)
    is_zero = size_T1 < 2.0**-100  # a row of so small numbers counts as zeros: their inverse leaves float32
    q_TI = torch.round(x * torch.where(is_zero, 0.0, steps / size_T1)).clamp(-num_steps, num_steps)
    sums_TO = (q_TI.double().nan_to_num(0.0) @ weights.weight.double().T).to(x.dtype)
    scale_T1 = torch.where(is_zero, 1.0, size_T1 / steps).where(size_T1.isfinite(), torch.nan)
    y = sums_TO * scale_T1 * weights.row_scale.to(x.dtype)
    return (y if weights.bias is None else y + weights.bias.to(x.dtype)).to(x_TI.dtype)


def fp8_linear(x_TI: Tensor, weights: LinearWeights, _: Fp8Scheme) -> Tensor:
    """Y = s scale (q W^T) + b with q = fp8(x / s), s = max |x| / 448 over each row, 1 for a row of zeros.

    Fp8 is e4m3, rounded to the nearest, halves to even. The product is of the values of fp8, and sums are not rounded
    to it. A row with a value that is not finite becomes NaN.
    Shapes: x [T, I] -> [T, O]. Dtypes: weight float8_e4m3fn; y as x.
    Source: Micikevicius et al. 2022, arXiv:2209.05433.
    """
    x = _upcast(x_TI)
    size_T1 = x.abs().amax(dim=1, keepdim=True)
    is_zero = size_T1 < 2.0**-100
    scaled = x * torch.where(is_zero, 0.0, LARGEST_FP8 / size_T1)
    q_TI = scaled.nan_to_num(0.0).clamp(-LARGEST_FP8, LARGEST_FP8).to(torch.float8_e4m3fn).to(x.dtype)
    scale_T1 = torch.where(is_zero, 1.0, size_T1 / LARGEST_FP8).where(size_T1.isfinite(), torch.nan)
    y = (q_TI @ weights.weight.to(x.dtype).T) * scale_T1 * weights.row_scale.to(x.dtype)
    return (y if weights.bias is None else y + weights.bias.to(x.dtype)).to(x_TI.dtype)


def count_int8_steps(num_inputs: int, bits: ActivationBits) -> int:
    """Returns an input's integers above 0: 127; or as many as 16 bits hold and exact sums in 32 bits allow."""
    return min((2**31 - 1) // (128 * num_inputs), (1 << (bits - 1)) - 1)


def apply_hadamard(x_TI: Tensor) -> Tensor:
    """Y = x H on every 64 inputs, H the orthogonal Hadamard matrix, H = H^T: what one channel has, 64 have a part of.

    In this order of sums, so that backends have the same bits. Shapes: [T, I] -> [T, I]. Dtypes: float32 or wider.
    Source: Ashkboos et al. 2024, arXiv:2404.00456 (QuaRot), here in blocks and next to the product.
    """
    y, half = x_TI, HADAMARD_BLOCK // 2
    while half:
        first, second = y.reshape(len(y), y.shape[1] // (2 * half), 2, half).unbind(2)
        y = torch.stack([first + second, first - second], dim=2).reshape(x_TI.shape)
        half //= 2
    return y.mul(HADAMARD_BLOCK**-0.5)


def log_sum_exp(logits_UV: Tensor, running_U2: Tensor, softcap: float | None = None) -> None:
    """(m, s) <- (M, s exp(m - M) + sum_v exp(c(x_v) - M)), M = max(m, max_v c(x_v)), in place: softmax block by block.

    c(x) = softcap * tanh(x / softcap). It starts at (-inf, 0), and m + log s is the logarithm of the sum at the end.
    Shapes: logits [U, V]; running [U, 2]. Dtypes: running float32.
    Source: Milakov and Gimelshein 2018, arXiv:1805.02867, alg. 3.
    """
    x_UV = logits_UV.to(running_U2.dtype)
    if softcap is not None:
        x_UV = softcap * torch.tanh(x_UV / softcap)
    most_U, sum_U = running_U2.unbind(1)
    new_U = torch.maximum(most_U, x_UV.amax(dim=1))
    sum_U = sum_U * (most_U - new_U).exp() + (x_UV - new_U[:, None]).exp().sum(dim=1)
    running_U2.copy_(torch.stack([new_U, sum_U], dim=1))


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float, residual_TD: Tensor | None = None) -> Tensor:
    """Y = z / sqrt(mean(z^2) + eps) * weight, with z = x, or with residual += x first and z = residual.

    Gemma's (1 + w) form is the same operation: the loader stores 1 + w.
    Shapes: x, residual, y [T, D]; weight [D]. Dtypes: y as x; residual float32, updated in place; weight float32.
    Source: Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.
    """
    z_TD = _upcast(x_TD)
    if residual_TD is not None:
        z_TD = residual_TD.add_(z_TD)
    return _normalise(z_TD, weight_D, eps).to(x_TD.dtype)


def rms_norm_backward(
    z_TD: Tensor, weight_D: Tensor, eps: float, grad_y_TD: Tensor, grad_residual_TD: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Gradients of `rms_norm` by z = residual + x, to which `grad_residual` is added, and by the weight.

    Shapes: z, gradients [T, D]; weight [D] -> [T, D], [D]. Dtypes: all float32 but grad_y (an activation).
    """
    grad_z_TD, grad_weight_D = _pull_back(lambda z, w: _normalise(z, w, eps), (z_TD, weight_D), _upcast(grad_y_TD))
    return grad_z_TD if grad_residual_TD is None else grad_z_TD + grad_residual_TD, grad_weight_D


def qk_norm_rope(
    qkv_TE: Tensor,
    heads: Heads,
    positions_T: Tensor,
    rotary: RotaryTables,
    q_norm_H: Tensor | None = None,
    k_norm_H: Tensor | None = None,
    eps: float = 0.0,
) -> None:
    """Normalises each query and key head (where a weight is given), then rotates it by its position, in place.

    RoPE on halves: (a, b) -> (a cos - b sin, b cos + a sin), a and b the first and second half of a head.
    Shapes: qkv [T, E]; positions [T]; norms [H].
    Dtypes: positions int32; tables and norms float32. The v part of qkv is untouched.
    Source: Su et al. 2021, arXiv:2104.09864, sec. 3.4.2; the norm as in Qwen3.
    """
    cos_T1H, sin_T1H = (table[positions_T.long()].unsqueeze(1) for table in rotary)
    q_TE, k_TE, _ = qkv_TE.split([heads.q_width, heads.kv_width, heads.kv_width], dim=1)
    for part_TE, weight_H in ((q_TE, q_norm_H), (k_TE, k_norm_H)):
        x = _upcast(part_TE).unflatten(1, (-1, heads.head_dim))
        if weight_H is not None:
            x = _normalise(x, weight_H, eps)
        a, b = x.chunk(2, dim=-1)
        rotated = torch.cat([a * cos_T1H - b * sin_T1H, b * cos_T1H + a * sin_T1H], dim=-1)
        part_TE.copy_(rotated.flatten(1))


def glu(gate_up_TF2: Tensor, activation: Activation) -> Tensor:
    """Y = activation(gate) * up, `activation` "silu" (SwiGLU) or "gelu_tanh" (GeGLU).

    Shapes: gate_up [T, 2F], gate first -> [T, F]. Dtypes: y as gate_up.
    Source: Shazeer 2020, arXiv:2002.05202; the tanh form of GELU is Hendrycks and Gimpel, arXiv:1606.08415.
    """
    gate, up = _upcast(gate_up_TF2).chunk(2, dim=1)
    return (_ACTIVATIONS[activation](gate) * up).to(gate_up_TF2.dtype)


_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
}


def glu_backward(gate_up_TF2: Tensor, activation: Activation, grad_y_TF: Tensor) -> Tensor:
    """Gradient of `glu` by gate_up. Shapes: [T, 2F], [T, F] -> [T, 2F]. Dtypes: all the same."""
    (grad,) = _pull_back(lambda x: glu(x, activation), (_upcast(gate_up_TF2),), _upcast(grad_y_TF))
    return grad.to(gate_up_TF2.dtype)


def route(logits_TX: Tensor, num_chosen: int, has_normalised_weights: bool) -> Routing:
    """Weights w = softmax(logits) over all experts; a token's experts are the C of largest logit.

    Of equal logits the first expert's comes first. With `has_normalised_weights`, the C weights are divided by their
    sum. A row whose softmax is NaN has NaN weights, and the first C experts.
    Shapes: logits [T, X] -> experts, weights [T, C]. Dtypes: logits, weights float32; experts int32.
    Source: Shazeer et al. 2017, arXiv:1701.06538, sec. 2.1, with the softmax before the choice, as in Qwen3-MoE.
    """
    logits = _upcast(logits_TX)
    weights_TX = logits.softmax(dim=1)
    order = logits.masked_fill(weights_TX.isnan(), 0.0).sort(dim=1, descending=True, stable=True).indices
    experts_TC = order[:, :num_chosen]
    weights_TC = weights_TX.gather(1, experts_TC)
    if has_normalised_weights:
        weights_TC = weights_TC / weights_TC.sum(dim=1, keepdim=True)
    return Routing(experts_TC.int(), weights_TC)


def expert_mlp(x_TD: Tensor, routing: Routing, weights: ExpertWeights, activation: Activation) -> Tensor:
    """Y = sum over c of weights_c * down_e glu(gate_up_e x), e = experts_c: each token through its own C experts.

    The sum goes in the order of the C, whatever other tokens go through the same experts.
    Shapes: x [T, D]; routing [T, C] -> [T, D]. Dtypes: y as x; the sum over experts in float32.
    Source: Shazeer et al. 2017, arXiv:1701.06538, eq. 1.
    """
    rows_TCD = x_TD.new_zeros(*routing.experts.shape, x_TD.shape[1])
    for expert, (gate_up, down) in enumerate(zip(*weights, strict=True)):
        tokens, places = (routing.experts == expert).nonzero(as_tuple=True)
        hidden = glu(functional.linear(x_TD[tokens], gate_up), activation)
        rows_TCD[tokens, places] = functional.linear(hidden, down)
    return (_upcast(rows_TCD) * routing.weights.unsqueeze(2)).sum(dim=1).to(x_TD.dtype)


def tree_attention(qkv_TE: Tensor, spec: AttentionSpec, tree: Tree, queries: Tensor) -> Tensor:
    """Causal attention of each query token to its own path in the tree.

    o_i = sum_j p_ij v_j over keys j on i's path with position_j <= position_i (and, with a window,
    position_i - position_j < window); p = softmax of c(scale * q_i . k_j), c(s) = softcap * tanh(s / softcap)
    or s. Query head n reads kv head n // (N / K). A key that is masked has no influence, NaN included.
    Shapes: qkv [T, E]; queries [., 4] as in `plan.TreeBatch` -> [R, N * H], R the query rows in total.
    Dtypes: result as qkv; softmax and sums in float32.
    """
    heads, softcap, window = spec.heads, spec.softcap, spec.window
    q_TNH, k_TKH, v_TKH = (
        part.unflatten(1, (-1, heads.head_dim))
        for part in qkv_TE.split([heads.q_width, heads.kv_width, heads.kv_width], dim=1)
    )
    runs = queries.tolist()
    out = qkv_TE.new_empty(sum(run[2] for run in runs), heads.q_width)
    offsets = tree.node_block_offsets.tolist()
    for node, first_token, num_tokens, out_row in runs:
        keys = tree.block_tokens[tree.node_blocks[offsets[node] : offsets[node + 1]].long()].flatten().long()
        keys = keys[keys >= 0]
        q = _upcast(q_TNH[first_token : first_token + num_tokens]).unflatten(1, (heads.num_kv_heads, heads.group))
        k, v = _upcast(k_TKH[keys]), _upcast(v_TKH[keys])
        logits = torch.einsum("qkgh,skh->kgqs", q, k) * spec.scale
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        # A path's keys stand in order of position; those of remembered tokens have no row in `positions`.
        distance = tree.positions[first_token : first_token + num_tokens, None] - torch.arange(
            len(keys), dtype=torch.int32, device=keys.device
        )
        visible = (distance >= 0) if window is None else (distance >= 0) & (distance < window)
        p = logits.masked_fill(~visible, -torch.inf).softmax(dim=-1)
        o = _sum_weighted(p, v, visible)
        out[out_row : out_row + num_tokens] = o.permute(2, 0, 1, 3).flatten(1).to(qkv_TE.dtype)
    return out


def _sum_weighted(p_KGQS: Tensor, v_SKH: Tensor, visible_QS: Tensor) -> Tensor:
    """P v [K, G, Q, H], where a value that no query may see does not turn 0 * NaN into NaN."""
    if v_SKH.isfinite().all():
        return torch.einsum("kgqs,skh->kgqh", p_KGQS, v_SKH)
    rows = [torch.einsum("kgs,skh->kgh", p_KGQS[:, :, i, seen], v_SKH[seen]) for i, seen in enumerate(visible_QS)]
    return torch.stack(rows, dim=2)


def tree_attention_backward(
    qkv_TE: Tensor,
    spec: AttentionSpec,
    tree: Tree,
    queries: Tensor,
    grad_out: Tensor,
    forward: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Gradient of `tree_attention` by qkv; 0 in the q part of tokens that are no queries. Computes the forward again.

    Shapes: qkv [T, E]; grad_out [R, N * H] -> [T, E]. Dtypes: all as qkv.
    """
    (grad,) = _pull_back(lambda qkv: tree_attention(qkv, spec, tree, queries), (_upcast(qkv_TE),), _upcast(grad_out))
    return grad.to(qkv_TE.dtype)


def pooled_score(
    x_UD: Tensor,
    residual_UD: Tensor,
    rows_B: Tensor,
    norm_weight_D: Tensor,
    eps: float,
    head_weight_1D: Tensor | None,
    head_bias_1: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Pools, normalises and scores: feature_b = rms_norm((residual + x)[rows_b]), score_b = w . feature_b + bias.

    Shapes: x, residual [U, D]; rows [B]; head weight [1, D], bias [1] -> features [B, D], scores [B] (None
    without a head). Dtypes: all float32 but x (an activation) and rows (int64); nothing is updated in place.
    """
    # Not by [rows], nor by index_select: where a row is read twice, their gradients add up in no fixed order on a GPU.
    features_BD = _normalise(functional.embedding(rows_B, residual_UD + _upcast(x_UD)), norm_weight_D, eps)
    if head_weight_1D is None:
        return features_BD, None
    scores_B = (features_BD * head_weight_1D[0]).sum(dim=1)
    return features_BD, scores_B if head_bias_1 is None else scores_B + head_bias_1


def pairwise_loss(
    scores_B: Tensor,
    labels_B: Tensor,
    group_offsets: Tensor,
    margins: Tensor | None = None,
    center_coefficient: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Bradley-Terry loss over every correct/incorrect pair within each group, and its gradient.

    loss = mean over groups that have a pair of mean over pairs (i correct, j incorrect) of
    -logsigmoid(s_i - s_j - margin) + c (s_i + s_j)^2; 0 where no group has a pair.
    Shapes: scores, labels [B]; group g is sequences group_offsets[g]:group_offsets[g + 1]; margins one a group
    -> (loss [], gradient [B]). Dtypes: scores float32 or float64, results the same; margins float32, labels bool,
    offsets int64.
    Source: Bradley and Terry 1952; the centring term is Eisenstein et al. 2023, arXiv:2312.09244.
    """
    scores = _upcast(scores_B.detach()).double().requires_grad_()
    bounds = group_offsets.tolist()
    losses = []
    with torch.enable_grad():
        for g, (start, end) in enumerate(pairwise(bounds)):
            group, correct = scores[start:end], labels_B[start:end]
            if not correct.any() or correct.all():
                continue
            i, j = group[correct].unsqueeze(1), group[~correct].unsqueeze(0)
            gap = i - j - (0.0 if margins is None else margins[g].double())
            pair_losses = -functional.logsigmoid(gap)
            if center_coefficient:  # 0 times an infinite score would be NaN
                pair_losses = pair_losses + center_coefficient * (i + j).square()
            losses.append(pair_losses.mean())
        if not losses:
            return scores_B.new_zeros(()), torch.zeros_like(scores_B)
        loss = torch.stack(losses).mean()
        (gradient,) = torch.autograd.grad(loss, scores)
    return loss.detach().to(scores_B.dtype), gradient.to(scores_B.dtype)


def _pull_back(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
    """The gradients by `inputs` that PyTorch derives from a definition above."""
    leaves = tuple(x.detach().requires_grad_() for x in inputs)
    with torch.enable_grad():
        return torch.autograd.grad(function(*leaves), leaves, grad)


def _upcast(x: Tensor) -> Tensor:
    """The dtype arithmetic is done in: float32, or float64 where the input is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _normalise(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * weight


def pack_plain(weights: LinearWeights, _: PlainFormat) -> PackedLinear:
    """Keeps the weights as they are."""
    return lambda x_TI: linear(x_TI, weights)


def pack_int8(weights: LinearWeights, scheme: QuantScheme) -> PackedLinear:
    """Keeps the weights as they are."""
    return lambda x_TI: int8_linear(x_TI, weights, scheme)


def pack_fp8(weights: LinearWeights, scheme: Fp8Scheme) -> PackedLinear:
    """Keeps the weights as they are."""
    return lambda x_TI: fp8_linear(x_TI, weights, scheme)


class ReferenceBackend(Backend):
    """The definitions above as a backend. The truth is not for speed."""

    name = "reference"
    description = "pure PyTorch"
    products = {PlainFormat: pack_plain, QuantScheme: pack_int8, Fp8Scheme: pack_fp8}  # noqa: RUF012
    rms_norm = staticmethod(rms_norm)
    rms_norm_backward = staticmethod(rms_norm_backward)
    qk_norm_rope = staticmethod(qk_norm_rope)
    glu = staticmethod(glu)
    glu_backward = staticmethod(glu_backward)
    log_sum_exp = staticmethod(log_sum_exp)
    route = staticmethod(route)
    expert_mlp = staticmethod(expert_mlp)
    tree_attention = staticmethod(tree_attention)
    tree_attention_backward = staticmethod(tree_attention_backward)
    pooled_score = staticmethod(pooled_score)
    pairwise_loss = staticmethod(pairwise_loss)


BACKEND = ReferenceBackend()
