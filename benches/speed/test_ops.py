"""Times every operation at the sizes of `bon8` on a Qwen3-0.6B, on our backend and on stock PyTorch, on a GPU if any.

Each case checks its result against the reference in float64 before it is timed.
"""

import functools
import statistics

import numpy as np
import pytest
import torch

from benches.harness.baselines import STOCK_TORCH
from codescaler.model.rope import build_rope_tables
from codescaler.ops import AttentionSpec, Backend, Heads, LinearWeights, RotaryTables, Tree, reference, select_backend
from codescaler.ops.linear import ExpertWeights
from codescaler.ops.plan import plan
from codescaler.ops.spec import Routing
from codescaler.quantize.fp8 import quantize_weight_to_fp8
from codescaler.quantize.int8 import quantize_weight
from codescaler.testing import (
    QWEN3_0_6B,
    WORKLOADS,
    assert_accurate,
    bench_device,
    describe_device,
    measure_kernel_seconds,
    measure_peak_flops,
    measure_seconds,
    run_peer_linear,
)
from codescaler.types import Fp8Scheme, QuantScheme, RopeConfig

SHAPE = QWEN3_0_6B
HEADS = Heads(SHAPE.num_heads, SHAPE.num_kv_heads, SHAPE.head_dim)
ATTENTION = AttentionSpec(HEADS, HEADS.head_dim**-0.5)
# Widths of Qwen3-30B-A3B, with an eighth of its experts and half of those that a token goes through. For a quarter of
# the tokens of `bon8`, so that an expert sees as many.
EXPERT_WIDTH, EXPERT_FFN, NUM_EXPERTS, NUM_CHOSEN, EXPERT_TOKENS = 2048, 768, 16, 4, 700
QKV_WIDTH = HEADS.q_width + 2 * HEADS.kv_width
EPS = 1e-6
TRUTH_ROWS = 256  # rows that are checked where all rows are treated alike: float64 is slow
TRUTH_RUNS = 2  # nodes of the tree whose attention is checked: the prompt and a candidate
COPY_BYTES = 1 << 27  # far larger than any cache
PAIRWISE_GROUPS, GROUP_SIZE = 32, 16


DEVICE = bench_device()
OURS = "cpu" if DEVICE.type == "cpu" else "triton"


@pytest.fixture(autouse=True)
def on_device():
    """Every tensor that a case makes is made there."""
    with torch.device(DEVICE):
        yield


DETERMINISTIC = "deterministic"
PRODUCTS = [OURS, "torch"] if OURS == "cpu" else [OURS, DETERMINISTIC, "torch"]


@pytest.fixture(params=[OURS, pytest.param("torch", marks=pytest.mark.slow)])
def backend(request) -> Backend:
    if request.param == "torch":
        return STOCK_TORCH
    return select_backend(OURS, DEVICE.type, deterministic=request.param == DETERMINISTIC)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request) -> torch.dtype:
    return request.param


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator(DEVICE).manual_seed(0)


@pytest.fixture(scope="module")
def tree() -> Tree:
    arrays = [np.array(ids, dtype=np.int32) for ids in WORKLOADS["bon8"].draw_sequences()]
    (batch,) = plan(arrays, max_batch_tokens=WORKLOADS["bon8"].num_distinct_tokens)
    return Tree.from_batch(batch, DEVICE)


@pytest.fixture
def record(benchmark, backend, dtype):
    """Times a call and writes down what it was and how fast.

    `counts` says what it works through, such as tokens=400. A call that multiplies matrices (`flops`) is held
    against the peak of matrix multiply, one that moves bytes (`num_bytes`) against a copy of more than the
    cache holds: small operands that stay in the cache pass 1.
    """

    def record(call, flops=None, num_bytes=None, **counts):
        benchmark.extra_info |= {
            "device": describe_device(DEVICE, "cpu"),
            "instruction_set": backend.description,
            "dtype": str(dtype).removeprefix("torch."),
        }
        if DEVICE.type == "cpu":
            benchmark(call)
        else:  # what its clock sees is the launch; the figures are from events
            benchmark.pedantic(call, warmup_rounds=3, rounds=3)
        if benchmark.disabled:
            return
        seconds = benchmark.stats.stats.median
        if DEVICE.type != "cpu":
            seconds = measure_kernel_seconds(call, DEVICE, num_calls=30, is_flushed=True)
            benchmark.extra_info["device_s"] = seconds
        benchmark.extra_info |= {f"{name}_per_s": count / seconds for name, count in counts.items()}
        if flops is not None:
            benchmark.extra_info["gflops_per_s"] = flops / seconds / 1e9
            benchmark.extra_info["share_of_matmul_peak"] = flops / seconds / peak_of_matmul(dtype, DEVICE)
        if num_bytes is not None:
            benchmark.extra_info["gbytes_per_s"] = num_bytes / seconds / 1e9
            benchmark.extra_info["share_of_copy_peak"] = num_bytes / seconds / peak_of_copy()

    return record


peak_of_matmul = functools.cache(measure_peak_flops)


@functools.cache
def peak_of_copy() -> float:
    """Bytes read and written a second by a large copy, the median of 7."""
    source, target = torch.ones(COPY_BYTES, dtype=torch.uint8), torch.ones(COPY_BYTES, dtype=torch.uint8)
    return 2 * COPY_BYTES / statistics.median(measure_seconds(lambda: target.copy_(source), DEVICE) for _ in range(7))


def num_bytes(*tensors: torch.Tensor) -> int:
    return sum(tensor.nbytes for tensor in tensors)


LINEAR_MAPS = pytest.mark.parametrize(
    "width_in, width_out",
    [
        (SHAPE.hidden_size, QKV_WIDTH),
        (HEADS.q_width, SHAPE.hidden_size),
        (SHAPE.hidden_size, 2 * SHAPE.intermediate_size),
        (SHAPE.intermediate_size, SHAPE.hidden_size),
    ],
    ids=["qkv", "o", "gate_up", "down"],
)


@pytest.mark.parametrize("backend", PRODUCTS, indirect=True)
@LINEAR_MAPS
def test_linear(record, backend, dtype, random, tree, width_in, width_out):
    x = torch.randn(len(tree.token_ids), width_in, generator=random).to(dtype)
    weight = torch.randn(width_out, width_in, generator=random).to(dtype)
    packed, few = backend.pack_linear(LinearWeights(weight)), x[:TRUTH_ROWS]
    truth = torch.nn.functional.linear(few.double(), weight.double())
    assert_accurate(backend.linear(few, packed), truth, run_peer_linear(few, weight))
    record(lambda: backend.linear(x, packed), tokens=len(x), flops=2 * x.numel() * width_out)


@pytest.mark.parametrize("backend", PRODUCTS, indirect=True)
def test_linear_glu(record, backend, dtype, random, tree):
    x = torch.randn(len(tree.token_ids), SHAPE.hidden_size, generator=random).to(dtype)
    weight = torch.randn(2 * SHAPE.intermediate_size, SHAPE.hidden_size, generator=random)
    weight = (SHAPE.hidden_size**-0.5 * weight).to(dtype)
    packed, few = backend.pack_linear(LinearWeights(weight)), x[:TRUTH_ROWS]
    truth = reference.glu(torch.nn.functional.linear(few.double(), weight.double()), "silu")
    peer = reference.glu(run_peer_linear(few, weight), "silu")
    assert_accurate(backend.linear_glu(few, packed, "silu"), truth, peer)
    record(lambda: backend.linear_glu(x, packed, "silu"), tokens=len(x), flops=2 * x.numel() * len(weight))


@pytest.mark.parametrize("backend", [OURS], indirect=True)  # PyTorch's own saturates without VNNI
@LINEAR_MAPS
@pytest.mark.parametrize("bits", [8, 16])
def test_int8_linear(record, backend, dtype, random, tree, width_in, width_out, bits):
    x = torch.randn(len(tree.token_ids), width_in, generator=random).to(dtype)
    exact = torch.randn(width_out, width_in, generator=random)
    weight, scale = quantize_weight(reference.apply_hadamard(exact))
    weights, few = LinearWeights(weight, None, scale[:, 0]), x[:TRUTH_ROWS]
    packed = backend.pack_linear(weights, QuantScheme(bits, has_hadamard=True))
    truth = (reference.apply_hadamard(few.double()) @ weight.double().T) * scale[:, 0]
    error = (backend.linear(few, packed) - truth).square().mean() / truth.square().mean()
    assert error.sqrt() < 1 / 64  # of a normal row's 127 steps at least
    record(lambda: backend.linear(x, packed), tokens=len(x), flops=2 * x.numel() * width_out)


@pytest.mark.parametrize("backend", [OURS if OURS == "triton" else "torch"], indirect=True)  # a CPU emulates it
@LINEAR_MAPS
def test_fp8_linear(record, backend, dtype, random, tree, width_in, width_out):
    x = torch.randn(len(tree.token_ids), width_in, generator=random).to(dtype)
    weight, scale = quantize_weight_to_fp8(torch.randn(width_out, width_in, generator=random))
    weights, few = LinearWeights(weight, None, scale[:, 0]), x[:TRUTH_ROWS]
    packed = backend.pack_linear(weights, Fp8Scheme())
    truth = few.double() @ weight.double().T * scale[:, 0]
    error = (backend.linear(few, packed) - truth).square().mean() / truth.square().mean()
    assert error.sqrt() < 1 / 16  # three bits of mantissa
    record(lambda: backend.linear(x, packed), tokens=len(x), flops=2 * x.numel() * width_out)


def test_rms_norm(record, backend, dtype, random, tree):
    x = torch.randn(len(tree.token_ids), SHAPE.hidden_size, generator=random).to(dtype)
    weight, residual = torch.rand(SHAPE.hidden_size, generator=random), torch.randn(x.shape, generator=random)
    few, few_residual = x[:TRUTH_ROWS], residual[:TRUTH_ROWS]
    truth = reference.rms_norm(few.double(), weight.double(), EPS, few_residual.double())
    peer = reference.rms_norm(few, weight, EPS, few_residual.clone())
    assert_accurate(backend.rms_norm(few, weight, EPS, few_residual.clone()), truth, peer)
    record(
        lambda: backend.rms_norm(x, weight, EPS, residual),
        tokens=len(x),
        num_bytes=num_bytes(x, residual, residual, x),
    )


def test_qk_norm_rope(record, backend, dtype, random, tree):
    qkv = torch.randn(len(tree.token_ids), QKV_WIDTH, generator=random).to(dtype)
    num_positions = int(tree.positions.max()) + 1
    rotary = build_rope_tables(RopeConfig(1e6), HEADS.head_dim, num_positions, DEVICE)
    norms = torch.rand(2, HEADS.head_dim, generator=random)

    def apply_few(operations, dtype, wide):
        few, tables = qkv[:TRUTH_ROWS].to(dtype, copy=True), RotaryTables(*(table.to(wide) for table in rotary))
        operations.qk_norm_rope(few, HEADS, tree.positions[:TRUTH_ROWS], tables, *norms.to(wide), EPS)
        return few

    truth = apply_few(reference, torch.float64, torch.float64)
    peer = apply_few(reference, dtype, torch.float32)
    assert_accurate(apply_few(backend, dtype, torch.float32), truth, peer)
    changed = qkv[:, : HEADS.q_width + HEADS.kv_width]
    record(
        lambda: backend.qk_norm_rope(qkv, HEADS, tree.positions, rotary, *norms, EPS),
        tokens=len(qkv),
        num_bytes=num_bytes(changed, changed),
    )


def test_glu(record, backend, dtype, random, tree):
    gate_up = torch.randn(len(tree.token_ids), 2 * SHAPE.intermediate_size, generator=random).to(dtype)
    y, few = backend.glu(gate_up, "silu"), gate_up[:TRUTH_ROWS]
    gate, up = few.chunk(2, dim=1)
    assert_accurate(y[:TRUTH_ROWS], reference.glu(few.double(), "silu"), torch.nn.functional.silu(gate) * up)
    record(lambda: backend.glu(gate_up, "silu"), tokens=len(gate_up), num_bytes=num_bytes(gate_up, y))


def test_log_sum_exp(record, backend, dtype, random):
    logits, running = torch.randn(512, 8192, generator=random).to(dtype), torch.tensor([-torch.inf, 0.0]).repeat(512, 1)
    truth, once = running.double(), running.clone()
    reference.log_sum_exp(logits, truth)
    backend.log_sum_exp(logits, once)
    peer = logits.float().logsumexp(dim=1)
    assert_accurate(once[:, 0] + once[:, 1].log(), truth[:, 0] + truth[:, 1].log(), peer)
    record(lambda: backend.log_sum_exp(logits, running), tokens=len(logits), num_bytes=num_bytes(logits))


def test_route(record, backend, dtype, random, tree):
    logits = torch.randn(len(tree.token_ids), 128, generator=random)
    experts, weights = backend.route(logits, 8, True)
    truth = reference.route(logits.double(), 8, True)
    assert torch.equal(experts, truth.experts)
    assert_accurate(weights, truth.weights, reference.route(logits, 8, True).weights)
    record(lambda: backend.route(logits, 8, True), tokens=len(logits), num_bytes=num_bytes(logits, experts, weights))


def test_expert_mlp(record, backend, dtype, random):
    x = torch.randn(EXPERT_TOKENS, EXPERT_WIDTH, generator=random).to(dtype)
    gate_up = 0.02 * torch.randn(NUM_EXPERTS, 2 * EXPERT_FFN, EXPERT_WIDTH, generator=random)
    down = 0.02 * torch.randn(NUM_EXPERTS, EXPERT_WIDTH, EXPERT_FFN, generator=random)
    weights = ExpertWeights(gate_up.to(dtype), down.to(dtype))
    routing = backend.route(torch.randn(len(x), NUM_EXPERTS, generator=random), NUM_CHOSEN, True)
    packed = backend.pack_experts(*weights, NUM_EXPERTS)
    few = Routing(*(part[:TRUTH_ROWS] for part in routing))
    truth = reference.expert_mlp(
        x[:TRUTH_ROWS].double(), few, ExpertWeights(*(weight.double() for weight in weights)), "silu"
    )
    # oneDNN's products as the peer of oneDNN's: MKL's are more exact.
    peer = torch.zeros(truth.shape)
    for expert, (first, second) in enumerate(zip(*weights, strict=True)):
        share = (few.weights * (few.experts == expert)).sum(1, keepdim=True)
        hidden = reference.glu(run_peer_linear(x[:TRUTH_ROWS], first), "silu")
        peer += share * run_peer_linear(hidden, second)
    assert_accurate(backend.expert_mlp(x, routing, packed, "silu")[:TRUTH_ROWS], truth, peer.to(dtype))
    record(
        lambda: backend.expert_mlp(x, routing, packed, "silu"),
        tokens=len(x),
        flops=6 * len(x) * NUM_CHOSEN * EXPERT_WIDTH * EXPERT_FFN,
    )


def test_tree_attention(record, backend, dtype, random, tree):
    qkv = torch.randn(len(tree.token_ids), QKV_WIDTH, generator=random).to(dtype)
    runs = tree.all_queries[:TRUTH_RUNS]
    truth, peer = (reference.tree_attention(x, ATTENTION, tree, runs) for x in (qkv.double(), qkv))
    few = backend.tree_attention(qkv, ATTENTION, tree, tree.all_queries)[: len(truth)]
    assert_accurate(few, truth, peer)
    num_pairs = int(tree.positions.sum()) + len(qkv)
    record(
        lambda: backend.tree_attention(qkv, ATTENTION, tree, tree.all_queries),
        tokens=len(qkv),
        flops=4 * HEADS.q_width * num_pairs,
    )


def test_pooled_score(record, backend, dtype, random, tree):
    count = len(tree.read_tokens)
    x = torch.randn(count, SHAPE.hidden_size, generator=random).to(dtype)
    residual = torch.randn(x.shape, generator=random)
    norm, head = (
        torch.rand(SHAPE.hidden_size, generator=random),
        torch.randn(1, SHAPE.hidden_size, generator=random),
    )
    wide = (t.double() for t in (x, residual))
    truths = reference.pooled_score(*wide, tree.rows, norm.double(), EPS, head.double(), None)
    arguments = (x, residual, tree.rows, norm, EPS, head, None)
    peers = reference.pooled_score(*arguments)
    for result, truth, peer in zip(backend.pooled_score(*arguments), truths, peers, strict=True):
        assert_accurate(result, truth, peer)
    record(lambda: backend.pooled_score(*arguments), scores=count, num_bytes=num_bytes(x, residual, residual))


@pytest.mark.parametrize("dtype", [torch.float32], ids=["float32"])
def test_pairwise_loss(record, backend, dtype, random):
    scores = torch.randn(PAIRWISE_GROUPS * GROUP_SIZE, generator=random)
    labels = torch.rand(scores.shape, generator=random) < 0.5
    offsets = torch.arange(0, len(scores) + 1, GROUP_SIZE)
    truths, peers = (reference.pairwise_loss(s, labels, offsets) for s in (scores.double(), scores))
    for result, truth, peer in zip(backend.pairwise_loss(scores, labels, offsets), truths, peers, strict=True):
        assert_accurate(result, truth, peer)
    record(lambda: backend.pairwise_loss(scores, labels, offsets), scores=len(scores))


def test_rms_norm_backward(record, backend, dtype, random, tree):
    z = torch.randn(len(tree.token_ids), SHAPE.hidden_size, generator=random)
    weight, grad_y = torch.rand(SHAPE.hidden_size, generator=random), torch.randn(z.shape, generator=random).to(dtype)
    few, few_grad = z[:TRUTH_ROWS], grad_y[:TRUTH_ROWS]
    gradient = backend.rms_norm_backward
    truths = reference.rms_norm_backward(few.double(), weight.double(), EPS, few_grad.double())
    peers = reference.rms_norm_backward(few, weight, EPS, few_grad)
    for result, truth, peer in zip(gradient(few, weight, EPS, few_grad), truths, peers, strict=True):
        assert_accurate(result, truth, peer)
    record(lambda: gradient(z, weight, EPS, grad_y, z), tokens=len(z), num_bytes=num_bytes(z, grad_y, z, z))


def test_glu_backward(record, backend, dtype, random, tree):
    gate_up = torch.randn(len(tree.token_ids), 2 * SHAPE.intermediate_size, generator=random).to(dtype)
    grad_y = torch.randn(len(gate_up), SHAPE.intermediate_size, generator=random).to(dtype)
    few, few_grad, gradient = gate_up[:TRUTH_ROWS], grad_y[:TRUTH_ROWS], backend.glu_backward
    truth = reference.glu_backward(few.double(), "silu", few_grad.double())
    assert_accurate(gradient(few, "silu", few_grad), truth, reference.glu_backward(few, "silu", few_grad))
    record(
        lambda: gradient(gate_up, "silu", grad_y), tokens=len(gate_up), num_bytes=num_bytes(gate_up, grad_y, gate_up)
    )


def test_tree_attention_backward(record, backend, dtype, random, tree):
    qkv = torch.randn(len(tree.token_ids), QKV_WIDTH, generator=random).to(dtype)
    grad_out = torch.randn(len(qkv), HEADS.q_width, generator=random).to(dtype)
    last, gradient = grad_out[: len(tree.read_tokens)], backend.tree_attention_backward
    truth, peer = (
        reference.tree_attention_backward(x, ATTENTION, tree, tree.read_queries, g)
        for x, g in ((qkv.double(), last.double()), (qkv, last))
    )
    # Terms of both signs cancel: their errors count against their size.
    scale = truth.abs().max()
    result = gradient(qkv, ATTENTION, tree, tree.read_queries, last)
    assert_accurate((result + scale).to(dtype), truth + scale, (peer + scale).to(dtype))
    num_pairs = int(tree.positions.sum()) + len(qkv)
    record(
        lambda: gradient(qkv, ATTENTION, tree, tree.all_queries, grad_out),
        tokens=len(qkv),
        flops=10 * HEADS.q_width * num_pairs,
    )
