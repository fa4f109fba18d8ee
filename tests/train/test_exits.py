"""Exits and cascades from groups to a ranking: what is written, what is refused, and what it drops."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from codescaler.engine import Engine
from codescaler.engine.adaptive import EXITS_FILE, HEADS_FILE
from codescaler.errors import (
    BackendUnavailable,
    InvalidInput,
    MissingTensor,
    OutputUnavailable,
    SettingsMismatch,
    WeightsError,
)
from codescaler.io.records import read_groups
from codescaler.testing import edit_json, edit_tensors, save_chat, save_random_checkpoint
from codescaler.train import exits
from codescaler.train.exits import (
    NUM_FOLDS,
    STRENGTHS,
    count_multiplications,
    fit_exits,
    fit_heads,
    read_contests,
    split_contests,
)

PROMISE = {"at_most": 0.2, "confidence": 0.9, "num_threads": 1}


def make_groups(num, seed=0, letters="abcdef"):
    """Problems of six short programs each."""
    random = np.random.default_rng(seed)
    return [
        {
            "task_id": f"{seed}/{number}",
            "prompt": f"Problem {number}",
            "candidates": [
                {"code": f"{''.join(random.choice([*letters], 3))} = {random.integers(10**6)}"} for _ in range(6)
            ],
        }
        for number in range(num)
    ]


def save_model(folder, seed=0):
    settings = {"vocab_size": 258, "num_hidden_layers": 4, "pad_token_id": None}
    save_random_checkpoint(folder, "qwen3", seed=seed, **settings)
    save_chat(folder)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    save_model(folder, seed=1)
    return folder


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, small):
    """A model with exits and a cascade, and what was reported of them."""
    folder = tmp_path_factory.mktemp("model")
    save_model(folder)
    groups = make_groups(120)
    return folder, fit_exits(folder, groups, **PROMISE), fit_exits(folder, groups, cascade=small, **PROMISE)


def rerank(engine, group, adaptive=None, **options):
    codes = [candidate["code"] for candidate in group["candidates"]]
    return engine.rerank(group["prompt"], codes, adaptive=adaptive, asked_first=True, **options)


def test_heads_that_are_lost_are_named(fitted, tmp_path):
    folder, *_ = fitted
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy/exits.safetensors").unlink()
    with pytest.raises(MissingTensor, match=r"exits\.json is of it; make both anew by `codescaler fit-exits`"):
        Engine.from_pretrained(tmp_path / "copy").open_ranker("exits")


def test_nothing_is_scored_where_nothing_can_be_written(fitted, monkeypatch):
    folder, *_ = fitted

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    monkeypatch.setattr(Engine, "submit_stages", None)
    with pytest.raises(OutputUnavailable, match=r"no file can be made in .* \(Permission denied\)"):
        fit_exits(folder, make_groups(120), **PROMISE)


def test_scores_that_depend_on_the_batch_have_no_exits(fitted):
    engine = Engine.from_pretrained(fitted[0])
    engine.has_same_bits = False  # as on a GPU without `deterministic`
    with pytest.raises(BackendUnavailable, match=r"the same bits in any batch; .* --deterministic"):
        engine.open_ranker("exits")


def test_threads_open_one_ranker(fitted):
    engine = Engine.from_pretrained(fitted[0])
    with ThreadPoolExecutor(4) as threads:
        rankers = [*threads.map(engine.open_ranker, ["exits"] * 8)]
    assert len({id(ranker) for ranker in rankers}) == 1


@pytest.mark.parametrize("kind", ["exits", "cascade"])
def test_survivors_have_their_scores_and_the_rest_follows(fitted, small, kind):
    folder, *reports = fitted
    report = reports[kind == "cascade"]
    adaptive = "exits" if kind == "exits" else small
    engine = Engine.from_pretrained(folder, num_threads=1)
    certificate = report.certificate
    assert certificate.bound <= certificate.at_most and certificate.num_counted == 63
    assert engine.open_ranker(adaptive).certificate == certificate
    groups, num_dropped, num_differing = make_groups(40, seed=2), 0, 0
    for group in groups:
        dense, found = rerank(engine, group), rerank(engine, group, adaptive)
        scores = {each.index: each.score for each in dense}
        kept = [each for each in found if each.score is not None]
        assert sorted(each.index for each in found) == list(range(6))
        assert found[: len(kept)] == kept and all(each.score == scores[each.index] for each in kept)
        assert all(each.dropped_at in report.layers for each in found[len(kept) :])
        num_dropped += 6 - len(kept)
        num_differing += found[0].score != dense[0].score
    assert num_dropped > 40 or kind == "cascade"  # whose models know nothing of each other
    assert num_differing <= 0.2 * len(groups)


def test_exits_save_layers_of_tokens(fitted):
    folder, report, _ = fitted
    engine = Engine.from_pretrained(folder, num_threads=1, prefix_memory_bytes=0)
    spent = {}
    for adaptive in (None, "exits"):
        before = engine.num_token_layers
        for group in make_groups(40, seed=3):
            rerank(engine, group, adaptive)
        spent[adaptive] = engine.num_token_layers - before
    assert spent["exits"] / spent[None] == pytest.approx(report.work, abs=0.1)


def test_a_file_of_another_model_or_setting_is_refused(fitted, small, tmp_path):
    folder, *_ = fitted
    with pytest.raises(SettingsMismatch, match="was made with dtype 'float32', and it is 'bfloat16' now"):
        Engine.from_pretrained(folder, dtype="bfloat16").open_ranker("exits")
    other = tmp_path / "other"
    shutil.copytree(small, other)
    for name in (EXITS_FILE, HEADS_FILE):
        shutil.copy(folder / name, other)
    with pytest.raises(WeightsError, match="made with head_digest"):
        Engine.from_pretrained(other).open_ranker("exits")
    with pytest.raises(InvalidInput, match=r"has no exits\.json.*make it by `codescaler fit-exits"):
        Engine.from_pretrained(small).open_ranker("exits")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    edit_tensors(copy / HEADS_FILE, lambda tensors: {name: 2 * tensor for name, tensor in tensors.items()})
    with pytest.raises(WeightsError, match="is of other exits_digest"):
        Engine.from_pretrained(copy).open_ranker("exits")
    edit_json(copy / EXITS_FILE, margins=["a"])
    with pytest.raises(WeightsError, match="holds no certificate"):
        Engine.from_pretrained(copy).open_ranker("exits")


def test_a_ranking_that_the_certificate_says_nothing_of(fitted):
    folder, *_ = fitted
    engine = Engine.from_pretrained(folder, num_threads=1)
    group = make_groups(1, seed=4)[0]
    with pytest.raises(InvalidInput, match="top_k=2, and the exits were made for 1"):
        rerank(engine, group, "exits", top_k=2)
    with pytest.raises(InvalidInput, match="asked_first=False, and the exits were made with True"):
        engine.rerank("p", ["a", "b"], adaptive="exits")
    few = {**group, "candidates": group["candidates"][:2]}
    assert rerank(engine, few, "exits") == rerank(engine, few)


def test_programs_that_cannot_be_first_are_not_scored(fitted):
    engine = Engine.from_pretrained(fitted[0], num_threads=1)
    group = make_groups(1, seed=5)[0]
    codes = [*(candidate["code"] for candidate in group["candidates"]), "def ("]
    found = engine.rerank(group["prompt"], codes, adaptive="exits", asked_first=True)
    assert (found[-1].index, found[-1].score, found[-1].dropped_at, found[-1].is_valid) == (6, None, 0, False)


def test_other_problems_are_noticed_and_then_all_are_scored(fitted, caplog):
    engine = Engine.from_pretrained(fitted[0], num_threads=1)
    group = make_groups(1, seed=6)[0]
    ranker = engine.open_ranker("exits")
    for _ in range(64):  # one problem again and again is no such stream
        rerank(engine, group, "exits")
    assert ranker.has_drifted and "from now on every candidate is scored in full" in caplog.text
    assert rerank(engine, group, "exits") == rerank(engine, group)


@pytest.mark.parametrize("kind", ["exits", "cascade"])
def test_a_promise_of_order_lets_any_number_be_asked_for(fitted, small, tmp_path, kind):
    shutil.copytree(fitted[0], tmp_path / "model")
    report = fit_exits(
        tmp_path / "model", make_groups(120), promise="order", cascade=small if kind == "cascade" else None, **PROMISE
    )
    engine = Engine.from_pretrained(tmp_path / "model", num_threads=1)
    adaptive = "exits" if kind == "exits" else small
    assert engine.open_ranker(adaptive).certificate == report.certificate
    assert report.certificate.promise == "order"
    num_wrong = 0
    for group in make_groups(40, seed=7):
        scores = {each.index: each.score for each in rerank(engine, group)}
        found = rerank(engine, group, adaptive, top_k=6)
        kept, dropped = ([scores[each.index] for each in found if (each.score is None) == way] for way in (False, True))
        num_wrong += bool(dropped) and max(dropped) > min(kept)
    assert num_wrong <= 0.2 * 40
    edit_json(report.file, promise={})
    with pytest.raises(WeightsError, match="kind is nothing; set it to"):
        Engine.from_pretrained(tmp_path / "model").open_ranker(adaptive)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"promise": "all"}, "promise='all' is unknown; choose 'first' or 'order'"),
        ({"promise": "order", "top_k": 2}, "top_k=2 with the promise of order, which holds for any"),
        ({"top_k": 0}, "top_k"),
        ({"num_settings": 0}, "num_settings"),
        ({"layers": range(1, 10)}, "layers names 9 exits; give at most 8"),
        ({"top_k": 6}, "0 problems have 7 programs or more"),
    ],
)
def test_a_promise_that_is_none(fitted, options, message):
    with pytest.raises(InvalidInput, match=message):
        fit_exits(fitted[0], make_groups(120), **PROMISE, **options)


def test_too_few_problems_for_the_promise(fitted):
    with pytest.raises(InvalidInput, match="needs 299 to count and 50 to choose margins on: 229 are missing"):
        fit_exits(fitted[0], make_groups(120))


def test_sides_depend_on_tasks_alone():
    contests = read_contests(read_groups(make_groups(200)), asked_first=True)
    chosen, counted = split_contests(contests, 100)
    assert (len(chosen), len(counted)) == (100, 100)
    assert split_contests(contests[::-1], 100) == (chosen, counted)
    assert [len(part) for part in split_contests(contests, 140)] == [60, 140]


def test_problems_are_counted_once():
    groups = make_groups(3)
    again = [{**groups[0], "prompt": "Another text"}, {**groups[1], "task_id": "another task", "system": "Another."}]
    few = {**make_groups(1, seed=1)[0], "prompt": "Few", "candidates": groups[0]["candidates"][:2]}
    contests = read_contests(read_groups([*groups, *again, few]), asked_first=True)
    assert [contest.task_id for contest in contests] == ["0/0", "0/1", "0/2", "1/0"]
    assert len(read_contests(read_groups([*groups, *again, few]), asked_first=True, top_k=2)) == 3


def draw_rows(noise=0.0, width=8, num_problems=50):
    random = np.random.default_rng(0)
    features, problem = random.normal(size=(8 * num_problems, 2, width)), np.repeat(np.arange(num_problems), 8)
    wanted = random.normal(size=width)
    scores = features[:, 1] @ wanted + random.normal(size=num_problems)[problem] * 10  # problems differ, and it is free
    return features, scores + noise * random.normal(size=len(scores)), problem, wanted


def test_a_head_finds_what_ranks_within_problems(monkeypatch):
    monkeypatch.setattr(exits, "STRENGTHS", (1.0, 1e-9))
    features, scores, problem, wanted = draw_rows()
    heads, biases, early = fit_heads(features, scores, problem)
    assert np.allclose(heads[1], wanted)
    assert np.isclose((features[:, 1] @ heads[1] + biases[1]).mean(), scores.mean())
    differences = (early[:, 1] - scores).reshape(-1, 8)
    assert np.allclose(differences, differences[:, :1])
    assert not np.allclose(heads[0], wanted)


def test_early_scores_are_of_heads_that_were_fitted_to_other_problems():
    features, scores, problem, _ = draw_rows(noise=1.0)
    heads, _, early = fit_heads(features, scores, problem)
    is_asked = problem % NUM_FOLDS == 2
    changed = scores + 0.1 * is_asked * features[:, 0, 0]  # by so little that the ridge stays the same
    other_heads, _, other = fit_heads(features, changed, problem)
    assert np.array_equal(early[is_asked], other[is_asked])
    assert not np.allclose(early[~is_asked], other[~is_asked]) and not np.allclose(heads, other_heads)


@pytest.mark.parametrize(("noise", "strength"), [(0.01, STRENGTHS[0]), (20.0, STRENGTHS[-1])])
def test_the_ridge_is_as_strong_as_unseen_problems_need(monkeypatch, noise, strength):
    features, scores, problem, _ = draw_rows(noise, width=40)
    heads, _, _ = fit_heads(features, scores, problem)
    monkeypatch.setattr(exits, "STRENGTHS", (strength,))
    alone, _, _ = fit_heads(features, scores, problem)
    assert np.array_equal(heads[1], alone[1])


def test_the_cost_of_a_token(fitted):
    config = Engine.from_pretrained(fitted[0]).config
    weights = 4 * (64 * 32 * (4 + 2 + 2) + 4 * 32 * 64 + 3 * 64 * 112)
    assert count_multiplications(config) == weights


def test_the_file_is_plain(fitted):
    record = json.loads((fitted[0] / EXITS_FILE).read_text())
    assert record["layers"] == [1, 2] and record["promise"]["differs_at_most"] == 0.2
