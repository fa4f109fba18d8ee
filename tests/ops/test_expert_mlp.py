import itertools

import pytest
import torch

from codescaler.env import is_triton_interpreted
from codescaler.ops import reference
from codescaler.ops.cpu import expert_mlp as cpu_expert_mlp
from codescaler.ops.linear import ExpertWeights
from codescaler.ops.spec import Routing
from codescaler.testing import assert_accurate, run_peer_linear

ACTIVATIONS = ["silu", "gelu_tanh"]
SIZES = [(19, 8, 3, 2, 1), (5, 17, 31, 7, 3), (40, 64, 96, 4, 2), (70, 130, 48, 3, 3), (33, 448, 20, 60, 4)]
# In the interpreter, which is slow, one activation a size.
CASES = list(
    zip(itertools.cycle(ACTIVATIONS), SIZES) if is_triton_interpreted() else itertools.product(ACTIVATIONS, SIZES)
)


def make_case(random, dtype, num_tokens, width, ffn, num_experts, num_chosen):
    """Inputs, weights and a routing in which some experts may see no token."""
    x = torch.randn(num_tokens, width, generator=random).to(dtype)
    weights = ExpertWeights(
        (torch.randn(num_experts, 2 * ffn, width, generator=random) * width**-0.5).to(dtype),
        (torch.randn(num_experts, width, ffn, generator=random) * ffn**-0.5).to(dtype),
    )
    return x, weights, reference.route(torch.randn(num_tokens, num_experts, generator=random), num_chosen, True)


def pack(backend, weights):
    return backend.pack_experts(iter(weights.gate_up), iter(weights.down), len(weights.down))


def run_peer(x, routing, weights, activation):
    """PyTorch's own products, an expert at a time."""
    y = torch.zeros(x.shape)
    for expert, (gate_up, down) in enumerate(zip(*weights, strict=True)):
        for tokens, weight in zip((routing.experts == expert).T, routing.weights.T, strict=True):
            if tokens.any():
                hidden = reference.glu(run_peer_linear(x[tokens], gate_up), activation)
                y[tokens] += weight[tokens, None] * run_peer_linear(hidden, down).float()
    return y.to(x.dtype)


@pytest.mark.parametrize("activation, sizes", CASES, ids=str)
def test_matches_the_truth(backend, dtype, random, activation, sizes):
    x, weights, routing = make_case(random, dtype, *sizes)
    wide = ExpertWeights(*(weight.double() for weight in weights))
    truth = reference.expert_mlp(x.double(), routing, wide, activation)
    peer = run_peer(x, routing, weights, activation)
    assert_accurate(backend.expert_mlp(x, routing, pack(backend, weights), activation), truth, peer)


def test_an_expert_may_see_all_tokens_or_none(backend, dtype, random):
    x, weights, _ = make_case(random, dtype, 37, 64, 48, 5, 2)
    experts = torch.tensor([[3, 1]] * 37, dtype=torch.int32)
    routing = Routing(experts, torch.full((37, 2), 0.5))
    truth = reference.expert_mlp(x.double(), routing, ExpertWeights(*(w.double() for w in weights)), "silu")
    result = backend.expert_mlp(x, routing, pack(backend, weights), "silu")
    assert_accurate(result, truth, run_peer(x, routing, weights, "silu"))


def test_nan_stays_in_its_row(kernels, dtype, random):
    """Also of the first row, whose copies pad the others."""
    x, weights, routing = make_case(random, dtype, 21, 64, 48, 4, 2)
    packed = pack(kernels, weights)
    before = kernels.expert_mlp(x, routing, packed, "silu")
    for row in (0, 13):
        changed = x.clone()
        changed[row, 5] = torch.nan
        y = kernels.expert_mlp(changed, routing, packed, "silu")
        assert y[row].isnan().all()
        others = torch.arange(21, device=y.device) != row
        assert torch.equal(y[others], before[others])


def test_a_row_has_the_same_bits_in_any_batch_and_order(kernels, dtype, random):
    x, weights, routing = make_case(random, dtype, 90, 96, 48, 6, 3)
    packed = pack(kernels, weights)

    def run(rows):
        return kernels.expert_mlp(x[rows], Routing(*(part[rows] for part in routing)), packed, "silu")

    together = run(torch.arange(90))
    order = torch.randperm(90, generator=random)
    assert torch.equal(run(order), together[order])
    for rows in ([0], [17, 3], list(range(40, 90))):
        assert torch.equal(run(torch.tensor(rows)), together[rows])


def test_blocks_of_tokens_keep_the_bits(kernels, dtype, random, monkeypatch):
    x, weights, routing = make_case(random, dtype, 50, 64, 48, 4, 2)
    packed = pack(kernels, weights)
    together = kernels.expert_mlp(x, routing, packed, "silu")
    monkeypatch.setattr(cpu_expert_mlp, "TOKENS_AT_ONCE", 7)
    assert torch.equal(kernels.expert_mlp(x, routing, packed, "silu"), together)


def test_packing_copies(backend, dtype, random):
    """The next weight may be written where the last one lay."""
    x, weights, routing = make_case(random, dtype, 9, 32, 16, 3, 2)
    buffers = [torch.empty_like(weight[0]) for weight in weights]

    def pass_through(part, buffer):
        for weight in part:
            yield buffer.copy_(weight)

    packed = backend.pack_experts(*map(pass_through, weights, buffers), 3)
    expected = backend.expert_mlp(x, routing, pack(backend, weights), "silu")
    assert torch.equal(backend.expert_mlp(x, routing, packed, "silu"), expected)


def test_empty(backend, dtype, random):
    _, weights, routing = make_case(random, dtype, 4, 32, 16, 3, 2)
    nothing = Routing(*(part[:0] for part in routing))
    x = torch.empty(0, 32, dtype=dtype)
    assert backend.expert_mlp(x, nothing, pack(backend, weights), "silu").shape == (0, 32)


def test_an_expert_is_padded_to_few_sizes():
    sizes = [cpu_expert_mlp.pad_expert_rows(rows) for rows in range(1, 4097)]
    assert all(rows <= size for rows, size in enumerate(sizes, start=1))
    assert len(set(sizes)) <= 50
    assert sum(sizes[:256]) < 1.06 * sum(range(1, 257))
