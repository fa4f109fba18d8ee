"""The named workloads, their count of operations, and the random reward model that they are scored by."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from codescaler.engine import Engine
from codescaler.ops.plan import plan
from codescaler.testing import (
    QWEN3_0_6B,
    QWEN3_1_7B,
    WORKLOADS,
    ModelShape,
    count_score_flops,
    measure_peak_flops,
    measure_rms_distance,
    score_error_limit,
    timing,
    write_random_rm,
)

TINY = ModelShape(
    hidden_size=64,
    intermediate_size=112,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    vocab_size=211,
)
TREE = [[1, 2, 3, 4], [1, 2, 3], [1, 2, 5, 6, 7], [1, 2, 5, 6, 7], [8]]


@pytest.mark.parametrize(
    "name, padded, real, distinct",
    [
        ("bon8", 8480, 6386, 2802),
        ("bon16", 19392, 14077, 5077),
        ("pairs", 15120, 7945, 7945),
        ("single", 400, 400, 400),
    ],
)
def test_workload_counts(name, padded, real, distinct):
    workload = WORKLOADS[name]
    sequences = workload.draw_sequences()
    assert len(sequences) * max(map(len, sequences)) == workload.num_padded_tokens == padded
    assert sum(map(len, sequences)) == workload.num_real_tokens == real
    (tree,) = plan([np.array(ids, dtype=np.int32) for ids in sequences], max_batch_tokens=real)
    assert tree.num_tokens == workload.num_distinct_tokens == distinct


def test_workloads_are_the_same_everywhere():
    first, *_ = WORKLOADS["bon8"].draw_sequences()
    assert first[:4] == WORKLOADS["single"].draw_sequences()[0][:4] == [100_989, 110_250, 10_612, 67_873]
    assert WORKLOADS["bon8"].draw_sequences() == WORKLOADS["bon8"].draw_sequences()


def test_flops_are_those_of_a_count_by_hand():
    flops = 0
    for prefix in {tuple(ids[: end + 1]) for ids in TREE for end in range(len(ids))}:
        for inputs, outputs in ((64, 128), (64, 64), (64, 64), (128, 64), (64, 112), (64, 112), (112, 64)):
            flops += 2 * inputs * outputs  # q, k, v, o, gate, up, down
        flops += 4 * 2 * 32 * len(prefix)  # 4 heads of 32: a product with each key, and one with each value
        flops += 4 * 2 * 32 * len(prefix)
    assert count_score_flops(TINY, TREE) == TINY.num_layers * flops


def test_flops_of_a_whole_model():
    """The figures that the project's published limit is reckoned from: 2.47 + 0.39 TFLOP."""
    assert count_score_flops(QWEN3_0_6B, WORKLOADS["bon8"].draw_sequences()) == pytest.approx(2.86e12, rel=2e-3)


def test_flops_grow_with_the_model():
    sequences = WORKLOADS["single"].draw_sequences()
    one_layer = count_score_flops(replace(QWEN3_0_6B, num_layers=1), sequences)
    assert count_score_flops(QWEN3_0_6B, sequences) == 28 * one_layer
    assert count_score_flops(QWEN3_1_7B, sequences) > 2 * 28 * one_layer


def test_flops_of_experts():
    """A token's experts and the router count, and not the experts that it does not go through."""
    sparse = replace(TINY, num_experts=7, num_chosen=3)
    difference = count_score_flops(sparse, TREE) - count_score_flops(TINY, TREE)
    num_tokens = count_score_flops(replace(TINY, num_layers=1, intermediate_size=113), TREE) - count_score_flops(
        replace(TINY, num_layers=1), TREE
    )
    num_tokens /= 2 * 3 * 64
    assert difference == TINY.num_layers * num_tokens * 2 * 64 * (2 * 3 * 112 + 7)


@pytest.mark.parametrize("shape", [TINY, replace(TINY, num_experts=5, num_chosen=2)], ids=["dense", "experts"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_random_rm_is_read_alike_by_engine_and_transformers(tmp_path, dtype, shape):
    from transformers import AutoModelForSequenceClassification

    write_random_rm(tmp_path, shape, dtype)
    model, info = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values())
    with torch.inference_mode():
        truth = np.array([model.eval()(torch.tensor([ids])).logits.item() for ids in TREE])
    scores = Engine.from_pretrained(tmp_path, dtype="float32").score_tokens(TREE)
    assert np.abs(scores - truth).max() <= 1e-4 * np.abs(truth).mean()
    assert np.unique(truth).size == len({tuple(ids) for ids in TREE})


def test_random_rm_follows_the_seed(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_random_rm(tmp_path / name, TINY, seed=seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c
    assert json.loads((tmp_path / "a" / "config.json").read_text())["dtype"] == "bfloat16"


def test_score_error_limit():
    truth = np.array([1.0, -3.0])
    assert measure_rms_distance(truth + np.array([3.0, -4.0]), truth) == pytest.approx(12.5**0.5)
    assert score_error_limit(truth, truth) == pytest.approx(2e-3)
    assert score_error_limit(truth + 1.0, truth) == pytest.approx(2.002)


def test_matmul_peak_is_a_speed():
    assert 1e8 < measure_peak_flops(torch.float32) < 1e16


class SimulatedCard:
    """A device and its host, with a clock of each, in milliseconds: a launch takes the host 0.2 and the card 0.03."""

    def __init__(self):
        self.host = self.device = 0.0

    def launch(self, host=0.2, device=0.03):
        self.host += host
        self.device = max(self.device, self.host) + device

    def zero_(self):
        self.launch(0.005, 0.06)

    def synchronize(self, device=None):
        self.host = max(self.host, self.device)

    def make_event(self, enable_timing):
        return SimulatedEvent(self)


class SimulatedEvent:
    def __init__(self, card):
        self.card = card

    def record(self):
        self.time = self.card.device = max(self.card.device, self.card.host)

    def query(self):
        return self.card.host >= self.time

    def elapsed_time(self, end):
        return end.time - self.time


def simulate_card(monkeypatch):
    card = SimulatedCard()
    monkeypatch.setattr(torch.cuda, "Event", card.make_event)
    monkeypatch.setattr(torch.cuda, "synchronize", card.synchronize)
    monkeypatch.setattr(timing, "_make_flush_buffer", lambda device: card)
    return card


@pytest.mark.parametrize("is_flushed", [False, True])
def test_a_kernel_is_timed_without_its_launch(monkeypatch, is_flushed):
    card, device = simulate_card(monkeypatch), torch.device("cuda")
    assert timing.measure_seconds(card.launch, device) == pytest.approx(0.23e-3)
    assert timing.measure_kernel_seconds(card.launch, device, 100, is_flushed=is_flushed) == pytest.approx(0.03e-3)


def test_a_call_that_waits_for_the_card_is_not_timed_as_a_kernel(monkeypatch):
    card = simulate_card(monkeypatch)
    with pytest.raises(RuntimeError, match="the call waits for it"):
        timing.measure_kernel_seconds(lambda: (card.launch(), card.synchronize()), torch.device("cuda"))
