"""The engine from text: templates, ranking, and what it does to bad pairs."""

import asyncio
import math
import shutil

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from codescaler.engine import Engine
from codescaler.engine.intake import TEXT_WINDOW
from codescaler.errors import HostileFile, InvalidInput, MissingTensor, WeightsError
from codescaler.testing import edit_tensors, save_chat, save_random_checkpoint
from codescaler.text.chat import make_messages
from codescaler.text.program import Conversation, make_conversation


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("chat")
    save_random_checkpoint(path, "qwen3", vocab_size=300, pad_token_id=299, max_position_embeddings=2048)
    save_chat(path)
    return path


@pytest.fixture(scope="module")
def engine(folder):
    return Engine.from_pretrained(folder)


PROBLEM = "Write a function to add two numbers."
RIGHT, OTHER, BROKEN = "def add(a, b):\n    return a + b", "def add(a, b):\n    return a - b", "def add(a, b:"


def ids_of(folder, problem, response):
    text = f"<|im_start|>user\n{problem}<|im_end|>\n<|im_start|>assistant\n{response}<|im_end|>\n"
    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids


def test_pairs_and_messages_are_rendered_and_scored(engine, folder):
    messages = [{"role": "user", "content": PROBLEM}, {"role": "assistant", "content": OTHER}]
    scores = engine.score([(PROBLEM, RIGHT), messages, (PROBLEM, "")])
    expected = engine.score_tokens([ids_of(folder, PROBLEM, response) for response in (RIGHT, OTHER, "")])
    assert np.array_equal(scores, expected)
    features = engine.features([(PROBLEM, RIGHT)])
    assert np.array_equal(features, engine.features_tokens([ids_of(folder, PROBLEM, RIGHT)]))


def test_windows_do_not_show(engine):
    pairs = [(PROBLEM, f"x = {i % 7}") for i in range(2 * TEXT_WINDOW + 3)]
    scores = engine.score(pairs)
    assert len(scores) == len(pairs)
    assert np.array_equal(scores, np.tile(scores[:7], len(pairs))[: len(pairs)])


def test_no_pairs(engine):
    assert engine.score([]).shape == (0,)
    assert engine.features([]).shape == (0, 64)
    assert engine.rerank(PROBLEM, []) == []


def test_ranking(engine):
    candidates = [BROKEN, RIGHT, OTHER, RIGHT]
    scores = engine.score([(PROBLEM, text) for text in candidates])
    ranked = engine.rerank(PROBLEM, candidates)
    assert [c.is_valid for c in ranked] == [True, True, True, False]
    assert ranked[-1].index == 0
    assert [c.score for c in ranked] == [scores[c.index] for c in ranked]
    best_first = sorted((1, 2, 3), key=lambda i: (-scores[i], i))
    assert [c.index for c in ranked[:3]] == best_first
    assert ranked[0].code == candidates[ranked[0].index]
    assert engine.rerank(PROBLEM, candidates, top_k=2) == ranked[:2]


@pytest.mark.parametrize("before, after", [("", "\n"), ("\n \n", "\n\n\t"), ("\ufeff", ""), ("\ufeff\n", " ")])
def test_what_surrounds_a_program_moves_no_bit_of_its_rank(engine, before, after):
    scores = engine.score([(PROBLEM, RIGHT), (PROBLEM, OTHER), (PROBLEM, f"{before}{RIGHT}{after}")])
    assert scores[0] != scores[2], "text is scored as given"
    ranked = engine.rerank(PROBLEM, [f"{before}{RIGHT}{after}".replace("\n", "\r\n"), f"{before}{OTHER}{after}"])
    assert {c.index: (c.score, c.code) for c in ranked} == {0: (scores[0], RIGHT), 1: (scores[1], OTHER)}
    completions = [f"```\n{RIGHT}\n```", f"```\n{OTHER}{after}\n```"]
    assert [c.score for c in engine.rerank(PROBLEM, completions, extract=True)] == [c.score for c in ranked]


SYSTEM = "Rate readability."


def score_messages(engine, *turns):
    roles = ("system", "user", "assistant")[-len(turns) :]
    messages = [{"role": role, "content": content} for role, content in zip(roles, turns, strict=True)]
    return float(engine.score([messages], system="")[0])


def test_the_nearest_system_prompt_wins(engine, folder, tmp_path):
    """A row's own, then that of the call, then the engine's, then the folder's; an empty one is none."""
    copy = shutil.copytree(folder, tmp_path / "rm")
    (copy / "system_prompt.txt").write_text("folder\n")
    plain, own = Engine.from_pretrained(copy), Engine.from_pretrained(copy, system="engine")
    expected = {text: score_messages(engine, text, PROBLEM, RIGHT) for text in ("folder", "engine", "call", "row")}
    expected[""] = score_messages(engine, PROBLEM, RIGHT)
    assert len({*expected.values()}) == 5
    row = [{"role": "system", "content": "row"}, *make_messages((PROBLEM, RIGHT))]
    pair, empty = make_conversation(PROBLEM, RIGHT), make_conversation(PROBLEM, RIGHT, "")
    assert plain.score([pair, empty, row]).tolist() == [expected["folder"], expected[""], expected["row"]]
    assert own.score([pair, make_conversation(PROBLEM, RIGHT, "row")]).tolist() == [expected["engine"], expected["row"]]
    assert own.score([pair, row], system="call").tolist() == [expected["call"], expected["row"]]
    assert own.score([pair], system="").tolist() == [expected[""]]
    assert own.submit([pair], system="call").result().tolist() == [expected["call"]]
    assert asyncio.run(own.score_async([pair], system="call")).tolist() == [expected["call"]]
    assert [c.score for c in plain.rerank(PROBLEM, [RIGHT], system="call")] == [expected["call"]]
    assert np.array_equal(plain.features([row]), own.features([(PROBLEM, RIGHT)], system="row"))
    assert (plain.text.system, own.text.system) == ("folder", "engine")
    with pytest.raises(InvalidInput, match=r"pairs\[0\] has a system message, and 'other' as system"):
        plain.score([Conversation(row, "other")])
    with pytest.raises(InvalidInput, match="system is a int"):
        plain.score([pair], system=3)


def test_a_problem_may_be_messages(engine):
    turns = [
        {"role": "user", "content": PROBLEM},
        {"role": "assistant", "content": OTHER},
        {"role": "user", "content": "?"},
    ]
    (ranked,) = engine.rerank(turns, [f"{RIGHT}\n"])
    assert ranked.score == engine.score([[*turns, {"role": "assistant", "content": RIGHT}]])[0]


def test_control_tokens_are_text_where_programs_are_compared(engine, folder):
    program = f"{RIGHT}  # <|im_end|>"
    as_text, as_tokens = (Engine.from_pretrained(folder, control_tokens=mode) for mode in ("text", "tokens"))
    text, tokens = as_text.score([(PROBLEM, program)])[0], engine.score([(PROBLEM, program)])[0]
    assert text != tokens
    (ranked,) = engine.rerank(PROBLEM, [program])
    assert ranked.score == text
    (ranked,) = as_tokens.rerank(PROBLEM, [program])
    assert ranked.score == tokens
    with pytest.raises(InvalidInput, match="control_tokens='both'"):
        Engine.from_pretrained(folder, control_tokens="both")


def test_ranking_with_extraction(engine):
    completions = ["no code", f"```python\n{RIGHT}\n```", f"```python\n{BROKEN}\n```", f"So:\n```\n{OTHER}\n```\n."]
    ranked = engine.rerank(PROBLEM, completions, extract=True)
    assert {c.index for c in ranked[:2]} == {1, 3}
    assert {c.code for c in ranked[:2]} == {RIGHT, OTHER}
    assert [(c.index, c.score, c.is_valid, c.code) for c in ranked[2:]] == [
        (0, None, False, None),
        (2, None, False, None),
    ]
    plain = {c.code: c.score for c in engine.rerank(PROBLEM, [RIGHT, OTHER])}
    assert {c.code: c.score for c in ranked[:2]} == plain


@pytest.mark.parametrize(
    "pairs, message",
    [
        ("abc", "pairs is a str"),
        ([("a", "b"), ("a", 1)], r"pairs\[1\]"),
        ([("a",)], r"pairs\[0\]"),
        ([[{"role": "user"}]], r"pairs\[0\]: message 0: content"),
        ([("a", "\ud800")], "lone surrogate"),
        ([("a" * 3000, "b")], r"pairs\[0\] has 30\d\d tokens, more than max_length=2048"),
    ],
)
def test_bad_pairs_are_named(engine, pairs, message):
    with pytest.raises(InvalidInput, match=message):
        engine.score(pairs)


@pytest.mark.parametrize(
    "arguments",
    [{"candidates": "abc"}, {"candidates": iter(["a"])}, {"candidates": [1]}, {"candidates": ["a"], "top_k": 0}],
)
def test_bad_rankings_are_named(engine, arguments):
    with pytest.raises(InvalidInput, match=r"candidates|top_k"):
        engine.rerank(PROBLEM, **arguments)


def test_a_folder_without_a_template_scores_tokens_only(tmp_path):
    save_random_checkpoint(tmp_path, "qwen3")
    engine = Engine.from_pretrained(tmp_path)
    assert math.isfinite(engine.score_tokens([[1, 2]])[0])
    with pytest.raises(MissingTensor, match="score_tokens"):
        engine.score([("a", "b")])


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10**10 }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
    ],
)
def test_a_hostile_template_is_refused_and_tokens_still_score(tmp_path, folder, template):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").write_text(template)
    engine = Engine.from_pretrained(tmp_path)
    with pytest.raises(HostileFile, match=r"chat_template\.jinja cannot be used .*fix it, or give token ids"):
        engine.score([("a", "b")])
    assert math.isfinite(engine.score_tokens([[1, 2]])[0])


def test_a_hundred_thousand_tokens(tmp_path, folder):
    """Refused where the model has fewer positions, scored where it has enough."""
    pair = ("Count.", "x = 1\n" * 17_000)
    ids = ids_of(folder, *pair)
    assert len(ids) > 100_000
    with pytest.raises(InvalidInput, match=rf"pairs\[1\] has {len(ids)} tokens, more than max_length=2048; shorten it"):
        Engine.from_pretrained(folder).score([("a", "b"), pair])
    cut = Engine.from_pretrained(folder, truncation="left")
    assert cut.score([pair])[0] == cut.score_tokens([ids[-2048:]])[0]
    sizes = {"vocab_size": 300, "pad_token_id": 299, "hidden_size": 16, "num_hidden_layers": 2, "head_dim": 16}
    layers = {"layer_types": ["sliding_attention", "full_attention"], "use_sliding_window": True}
    save_random_checkpoint(tmp_path, "qwen3", max_position_embeddings=2**17, sliding_window=512, **sizes, **layers)
    save_chat(tmp_path)
    engine = Engine.from_pretrained(tmp_path)
    scores = engine.score([pair, ("a", "b"), pair])
    assert np.isfinite(scores).all()
    assert scores[0] == scores[2] == engine.score_tokens([ids])[0]


def test_a_score_that_is_not_finite_names_the_candidate(tmp_path):
    save_random_checkpoint(tmp_path, "qwen3", vocab_size=300, pad_token_id=299)
    save_chat(tmp_path)

    def poison(tensors):
        tensors["model.embed_tokens.weight"][ord("~") - ord("!")] = torch.nan
        return tensors

    edit_tensors(tmp_path / "model.safetensors", poison)
    engine = Engine.from_pretrained(tmp_path)
    tilde = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("~").ids
    assert np.isnan(engine.score_tokens([tilde])).all() and np.isfinite(engine.score_tokens([[5]])).all()
    with pytest.raises(WeightsError, match="candidate 1 scores nan"):
        engine.rerank(PROBLEM, ["x = 1", "x = ~1"])
