"""Times whole scoring of the named workloads by the engine, and by transformers beside it.

The model is one layer of a Qwen3-0.6B in this CPU's fastest dtype: `python benches compare` measures whole models.
"""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch

from benches.harness.baselines import VARLEN, PackedScorer, TransformersScorer, load_transformers
from codescaler.engine import Engine
from codescaler.ops import select_backend
from codescaler.testing import (
    FLOAT32_SCORE_LIMIT,
    QWEN3_0_6B,
    WORKLOADS,
    bench_device,
    choose_fastest_dtype,
    count_score_flops,
    describe_device,
    measure_peak_flops,
    measure_rms_distance,
    score_error_limit,
    write_random_rm,
)

SHAPE = replace(QWEN3_0_6B, num_layers=1)
DTYPE = choose_fastest_dtype()
DEVICE = bench_device()
# Far above bfloat16's rounding in one layer, far below the distance of another model's or sequence's scores.
BASELINE_LIMIT = 0.05

peak_of_matmul = functools.cache(measure_peak_flops)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workloads")
    write_random_rm(folder, SHAPE)
    return folder


@pytest.fixture(scope="module")
def engine(folder):
    return Engine.from_pretrained(folder, device=str(DEVICE), dtype=DTYPE)


@pytest.fixture(scope="module")
def baseline(folder):
    return TransformersScorer(load_transformers(folder, getattr(torch, DTYPE), DEVICE))


@pytest.fixture(scope="module")
def reference_scores(folder, pytestconfig):
    """Scores a workload with the reference backend; in float32 they are the truth."""
    engines = {
        dtype: Engine.from_pretrained(folder, device=str(DEVICE), backend="reference", dtype=dtype)
        for dtype in {"float32", DTYPE}
    }
    is_timed = not pytestconfig.getoption("--benchmark-disable")
    return functools.cache(lambda name, dtype: engines[dtype].score_tokens(draw_sequences(name, is_timed)))


def draw_sequences(name, is_timed):
    """The sequences of a workload, or where nothing is timed the first eight."""
    return WORKLOADS[name].draw_sequences()[: None if is_timed else 8]


@pytest.fixture
def record(benchmark):
    """Times the scoring of a workload, writes down how fast it was, and returns the scores."""

    def record(score, name, instruction_set):
        workload, sequences = WORKLOADS[name], draw_sequences(name, not benchmark.disabled)
        benchmark.extra_info |= {
            "device": describe_device(DEVICE, "cpu"),
            "instruction_set": instruction_set,
            "dtype": DTYPE,
        }
        scores = benchmark.pedantic(score, args=(sequences,), rounds=3, warmup_rounds=1)
        if not benchmark.disabled:
            seconds = benchmark.stats.stats.median
            benchmark.extra_info["real_tokens_per_s"] = workload.num_real_tokens / seconds
            flops_per_s = count_score_flops(SHAPE, sequences) / seconds
            benchmark.extra_info["share_of_matmul_peak"] = flops_per_s / peak_of_matmul(getattr(torch, DTYPE), DEVICE)
        return scores

    return record


@pytest.mark.parametrize("name", WORKLOADS)
def test_engine(record, engine, reference_scores, name):
    scores = record(engine.score_tokens, name, select_backend(engine.backend, DEVICE.type).description)
    truth, peer = reference_scores(name, "float32"), reference_scores(name, DTYPE)
    assert measure_rms_distance(scores, truth) <= score_error_limit(peer, truth)


def test_packed_scores_are_the_padded_ones(folder):
    """On a CPU, where the attention of variable length is SDPA, a sequence at a time."""
    cpu = torch.device("cpu")
    packed = PackedScorer(load_transformers(folder, torch.float32, cpu, VARLEN))
    padded = TransformersScorer(load_transformers(folder, torch.float32, cpu))
    sequences = [ids[:100] for ids in WORKLOADS["pairs"].draw_sequences()[:3]] + [[7]]
    scores, expected = (scorer.score_tokens(sequences) for scorer in (packed, padded))
    assert np.abs(scores - expected).max() <= FLOAT32_SCORE_LIMIT * np.abs(expected).mean()


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKLOADS)
def test_transformers_padded(record, baseline, reference_scores, name):
    scores = record(baseline.score_tokens, name, torch.backends.cpu.get_cpu_capability())
    truth = reference_scores(name, "float32")
    assert measure_rms_distance(scores, truth) <= BASELINE_LIMIT * np.abs(truth).mean()
