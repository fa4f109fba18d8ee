"""Exits: who goes on, and that survivors have the bits of a full run, in any batch, dtype and tree."""

import numpy as np
import pytest
import torch

from codescaler.engine import Engine, forward
from codescaler.engine.exits import DROPPED, Exits, Rule, choose_layers, require_layers, simulate
from codescaler.env import is_triton_interpreted
from codescaler.errors import InvalidInput
from codescaler.testing import save_random_checkpoint

LAYERS = (1, 3)
INTERPRETED = is_triton_interpreted()  # which is slow: one family and short lists
NAMES, DTYPES = (["triton"], ["float32"]) if INTERPRETED else (["cpu"], ["float32", "bfloat16"])
FAMILIES = ["qwen3"] if INTERPRETED else ["qwen3", "gemma2", "qwen3_moe"]
PROMPT, LONGEST, NUM_CANDIDATES = (20, 12, 4) if INTERPRETED else (70, 90, 6)
SEEDS = range(1 if INTERPRETED else 3)


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    save_random_checkpoint(path, request.param, num_hidden_layers=4, vocab_size=97, pad_token_id=None)
    return path


@pytest.fixture(scope="module", params=[(name, dtype) for name in NAMES for dtype in DTYPES], ids=str)
def engine(request, folder):
    name, dtype = request.param
    return Engine.from_pretrained(folder, device="cpu", backend=name, dtype=dtype, deterministic=True)


def make_problem(seed):
    """Candidates that branch off one another, one of them the beginning of another, and two that are equal."""
    random = np.random.default_rng(seed)
    prompt = random.integers(0, 97, PROMPT).tolist()
    lists = [[*prompt, *random.integers(0, 97, n).tolist()] for n in random.integers(1, LONGEST, NUM_CANDIDATES)]
    return [*lists, lists[0], [*lists[1][: PROMPT + 5], 5], lists[2][: PROMPT + 2]]


def make_exits(engine, margins, top_k=1):
    random = torch.Generator().manual_seed(0)
    width = engine.config.hidden_size
    heads = tuple((torch.randn(1, width, generator=random) / width**0.5, torch.zeros(1)) for _ in LAYERS)
    return Exits(LAYERS, heads, None if margins is None else Rule(margins, top_k))


def make_cutting_exits(engine, problems):
    """Exits with margins at which each exit drops some candidates."""
    full = compute(engine, problems, make_exits(engine, None))
    gaps = np.concatenate([values.max(axis=0) - values for values in full])
    return make_exits(engine, (float(np.quantile(gaps[:, 0], 0.8)), float(np.quantile(gaps[:, 1], 0.5))))


def compute(engine, problems, exits):
    """Values of problems whose requests are one turn."""
    from codescaler.engine.scheduler import Request

    requests = [
        Request([np.array(tokens, np.int32) for tokens in lists], wants="stages", exits=exits) for lists in problems
    ]
    with torch.inference_mode():
        return engine._runner(requests)


def test_survivors_have_the_bits_of_a_full_run(engine):
    problems = [make_problem(seed) for seed in SEEDS]
    full = compute(engine, problems, make_exits(engine, None))
    dense = [engine.score_tokens(lists) for lists in problems]
    for values, scores in zip(full, dense, strict=True):
        assert np.array_equal(values[:, -1], scores) and np.isfinite(values).all()
    exits = make_cutting_exits(engine, problems)
    before, tokens = engine.num_token_layers, engine.num_distinct_tokens
    cut = compute(engine, problems, exits)
    expected = [simulate(values, exits.rule) for values in full]
    for values, wanted in zip(cut, expected, strict=True):
        assert np.array_equal(values, wanted)
    dropped = np.concatenate([values[:, 1:] == DROPPED for values in cut])
    assert 0 < dropped[:, 0].sum() < dropped[:, 1].sum() < len(dropped), "each exit drops some, none drops all"
    computed, total = engine.num_token_layers - before, 4 * (engine.num_distinct_tokens - tokens)
    assert computed < 0.9 * total


def test_problems_alone_and_trees_that_part_siblings(engine, folder, monkeypatch):
    problems = [make_problem(seed) for seed in SEEDS]
    exits = make_cutting_exits(engine, problems)
    together = compute(engine, problems, exits)
    for lists, values in zip(problems, together, strict=True):
        assert np.array_equal(compute(engine, [lists], exits)[0], values)
    monkeypatch.setattr(engine._runner, "_max_batch_tokens", PROMPT + LONGEST)
    for lists, values in zip(problems, together, strict=True):
        assert np.array_equal(compute(engine, [lists], exits)[0], values)
    monkeypatch.setattr(forward, "MAX_TREES_AT_EXIT", 1)
    full = compute(engine, problems, make_exits(engine, None))
    assert all(map(np.array_equal, compute(engine, problems, exits), full)), "nobody is dropped"


def test_features_by_layer_are_what_heads_read(engine):
    lists = make_problem(0)
    exits = make_exits(engine, None)
    (values,), (scores,) = compute(engine, [lists], Exits(LAYERS)), compute(engine, [lists], exits)
    assert np.array_equal(values[:, -1], scores[:, -1])
    features = values[:, :-1].reshape(len(lists), len(LAYERS), engine.config.hidden_size)
    for stage, (weight, _) in enumerate(exits.heads):
        assert np.allclose(features[:, stage] @ weight[0].numpy(), scores[:, stage], rtol=1e-4, atol=1e-4)


def test_who_goes_on():
    scores = np.array([1.0, 0.4, np.nan, DROPPED, 0.9, 0.5], np.float32)
    assert Rule((0.5,)).find_survivors(scores, 0).tolist() == [True, False, True, False, True, True]
    assert Rule((0.5,), top_k=2).find_survivors(scores, 0).tolist() == [True, True, True, False, True, True]
    assert Rule((np.inf,)).find_survivors(scores, 0).tolist() == [True, True, True, False, True, True]
    assert Rule((0.1,), top_k=9).find_survivors(scores[:2], 0).all(), "fewer than top_k"
    assert not Rule((0.5,)).find_survivors(np.full(2, DROPPED, np.float32), 0).any()


def test_a_value_that_is_not_finite_is_not_taken_for_a_dropped_one(engine, monkeypatch):
    exits = make_exits(engine, (0.8, 0.3))
    low = (exits.heads[0][0], torch.full((1,), -torch.inf))
    (values,) = compute(engine, [make_problem(0)], Exits(LAYERS, (low, exits.heads[1]), exits.rule))
    assert np.isnan(values[:, 0]).all() and (values[:, 1] != DROPPED).all()


@pytest.mark.parametrize(
    "num_layers, expected", [(28, (3, 7, 14, 18)), (6, (1, 3, 4)), (2, (1,)), (1, ()), (24, (3, 6, 12, 16))]
)
def test_parts_of_the_layers(num_layers, expected):
    assert choose_layers(num_layers) == expected


@pytest.mark.parametrize("layers", [(), (0, 1), (2, 2), (3, 1), (1, 4)])
def test_layers_that_are_none(layers):
    with pytest.raises(InvalidInput, match="give rising numbers from 1 to 3"):
        require_layers(layers, 4)
