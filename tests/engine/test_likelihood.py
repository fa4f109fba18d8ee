"""Log-likelihoods as scores: those of transformers, the same bits in any batch, the tokens of the program alone."""

import numpy as np
import pytest
import torch
import transformers

from codescaler.engine import Engine
from codescaler.engine.likelihood import REVIEW, SCORERS, make_review
from codescaler.errors import InvalidInput, UnsupportedModel, WeightsError
from codescaler.model import output_layer
from codescaler.testing import edit_json, save_chat, save_random_checkpoint
from codescaler.text.program import Conversation

PROBLEM = "Add two numbers. " * 8
PROGRAMS = [
    "def f(a, b):\n    return a + b",
    "def f(a, b):\n    return a - b",
    "x",
    "def f(a, b):\n    pass\n\n\ny = 1",
]
PROGRAMS += ["def f(a, b):\n    pass\n\n\ny = 1"]
PAIRS = [(PROBLEM, program) for program in PROGRAMS] + [("Another problem.", PROGRAMS[0])]
CASES = {
    "qwen3": {},
    "llama": {"tie_word_embeddings": False},
    "gemma2": {"tie_word_embeddings": True},
}


@pytest.fixture(scope="module", params=CASES)
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    save_random_checkpoint(path, request.param, "CausalLM", vocab_size=300, **CASES[request.param])
    save_chat(path)
    return path


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """The vocabulary of a tiny model falls into several blocks too, the last one smaller, and so do its rows."""
    monkeypatch.setattr(output_layer, "TOKENS_AT_ONCE", 128)
    monkeypatch.setattr(output_layer, "ROWS_AT_ONCE", 48)


def list_log_probs(folder, engine, pairs):
    """Those of transformers, for the tokens of each program."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    sequences, starts = engine.encoder.encode_continuations(pairs, [f"pairs[{i}]" for i in range(len(pairs))])
    results = []
    for sequence, start in zip(sequences, starts, strict=True):
        ids = torch.tensor(sequence[None].astype(np.int64))
        with torch.inference_mode():
            log_probs = model(ids).logits[0].log_softmax(dim=-1)
        results.append(log_probs[torch.arange(start - 1, len(sequence) - 1), ids[0, start:]].numpy())
    return results


def test_log_probs_are_what_scores_are_made_of(folder):
    engine = Engine.from_pretrained(folder, dtype="float32", head="none")
    programs, problems = engine.log_probs(PAIRS), engine.log_probs(PAIRS, of="problem")
    assert [len(part) for part in programs] == [len(program) for _, program in PAIRS]  # a byte is a token
    assert [len(part) for part in problems] == [len(problem) for problem, _ in PAIRS]
    for reduce, function in {"sum": np.sum, "mean": np.mean, "min": np.min}.items():
        expected = np.array([function(part) for part in programs])
        assert engine.log_likelihood(PAIRS, reduce=reduce).tobytes() == expected.tobytes()
    reviewer = Engine.from_pretrained(folder, dtype="float32", scorer="reviewer").score(PAIRS)
    assert reviewer.tobytes() == np.array([part.sum() for part in problems]).tobytes()
    assert engine.log_probs([]) == []
    with pytest.raises(InvalidInput, match="of='tokens'"):
        engine.log_probs(PAIRS, of="tokens")


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_equal_to_transformers(folder, backend):
    engine = Engine.from_pretrained(folder, device="cpu", dtype="float32", backend=backend, head="none")
    theirs = list_log_probs(folder, engine, PAIRS)
    for reduce, function in (("sum", np.sum), ("mean", np.mean), ("min", np.min)):
        expected = np.array([function(part) for part in theirs])
        ours = engine.log_likelihood(PAIRS, reduce=reduce)
        assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).mean()


def test_bfloat16_is_as_near_as_transformers(folder):
    engine = Engine.from_pretrained(folder, device="cpu", dtype="bfloat16", head="none")
    truth = np.array([part.mean() for part in list_log_probs(folder, engine, PAIRS)])
    ours = engine.log_likelihood(PAIRS, reduce="mean")
    assert np.sqrt(np.square(ours - truth).mean()) <= 0.02 * np.abs(truth).mean()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bits_in_any_batch(folder, dtype):
    engine = Engine.from_pretrained(folder, device="cpu", dtype=dtype, scorer="likelihood")
    together = engine.score(PAIRS)
    assert np.array_equal(engine.score(PAIRS[::-1])[::-1], together)
    assert np.array_equal(np.concatenate([engine.score([pair]) for pair in PAIRS]), together)
    assert np.array_equal(engine.log_likelihood(PAIRS), together)
    assert np.array_equal(engine.score(PAIRS + PAIRS), np.tile(together, 2))


def test_the_tokens_of_the_program_alone_are_counted(folder):
    engine = Engine.from_pretrained(folder, device="cpu", scorer="likelihood")
    tokenizer = engine.encoder.chat.tokenizer
    sequences, starts = engine.encoder.encode_continuations(PAIRS, [""] * len(PAIRS))
    for (_, program), sequence, start in zip(PAIRS, sequences, starts, strict=True):
        assert tokenizer.decode(sequence[start:].tolist()) == program


def test_features_and_likelihoods_share_an_engine(folder):
    engine = Engine.from_pretrained(folder, device="cpu", scorer="likelihood")
    features = engine.features(PAIRS)
    futures = [engine.submit(PAIRS[:2]), engine.submit(PAIRS[2:])]
    assert np.array_equal(engine.features(PAIRS), features)
    assert np.array_equal(np.concatenate([future.result() for future in futures]), engine.score(PAIRS))


def test_reviewer_asks_for_the_problem(folder):
    scores = {
        name: Engine.from_pretrained(folder, device="cpu", scorer=name).score(PAIRS)
        for name in ("likelihood", "reviewer", "coder_reviewer")
    }
    np.testing.assert_allclose(scores["coder_reviewer"], scores["likelihood"] + scores["reviewer"], rtol=1e-6)
    turned = [(f"{REVIEW}```\n{program}\n```", problem) for problem, program in PAIRS]
    engine = Engine.from_pretrained(folder, device="cpu", head="none")
    assert np.array_equal(engine.log_likelihood(turned), scores["reviewer"])


def test_reviewer_needs_a_problem_and_a_program():
    with pytest.raises(InvalidInput, match=r"pairs\[3\] does not end with a problem"):
        make_review([{"role": "user", "content": "a"}], "pairs[3]")
    system = Conversation(("a", "b"), "be strict", is_program=True)
    assert make_review(system).system == "be strict" and make_review(system).is_program


def test_ranking_by_likelihood(folder):
    engine = Engine.from_pretrained(folder, device="cpu", scorer="likelihood")
    ranked = engine.rerank(PROBLEM, [f"{program}\n" for program in PROGRAMS])
    pairs = [Conversation((PROBLEM, program), is_program=True) for program in PROGRAMS]
    expected = engine.log_likelihood(pairs)
    assert [candidate.score for candidate in ranked] == sorted(expected.tolist(), reverse=True)


def test_control_tokens_of_a_program_are_text(folder):
    engine = Engine.from_pretrained(folder, device="cpu", scorer="likelihood")
    special = next(iter(engine.encoder.chat.control_tokens.ids), None)
    if special is None:
        pytest.skip("this tokenizer has no control token")
    program = f"x = 1  # {special}\ny = 2"
    for is_program in (True, False):
        conversation = Conversation((PROBLEM, program), is_program=is_program)
        (sequence,), (start,) = engine.encoder.encode_continuations([conversation], ["pair"])
        ids = engine.encoder.chat.control_tokens.ids
        assert (ids[special] in sequence[start:]) != is_program


def test_each_scorer_has_its_own_digest(folder):
    digests = {name: Engine.from_pretrained(folder, device="cpu", scorer=name).head_digest for name in SCORERS}
    assert len(set(digests.values())) == len(SCORERS)


def test_what_has_no_likelihood(folder, tmp_path):
    engine = Engine.from_pretrained(folder, device="cpu", head="none", max_length=200)
    with pytest.raises(InvalidInput, match=r"pairs\[1\]: its last turn has no token"):
        engine.log_likelihood([PAIRS[4], ("a", "")])
    with pytest.raises(InvalidInput, match=r"pairs\[0\] has .* max_length=200"):
        engine.log_likelihood([("a", "x " * 200)])
    with pytest.raises(InvalidInput, match="reduce"):
        engine.log_likelihood(PAIRS, reduce="max")
    with pytest.raises(InvalidInput, match="no reward head"):
        engine.score(PAIRS)
    with pytest.raises(InvalidInput, match="scorer='best'"):
        Engine.from_pretrained(folder, scorer="best")
    save_random_checkpoint(tmp_path, "qwen3")
    save_chat(tmp_path)
    with pytest.raises(UnsupportedModel, match="no causal language model"):
        Engine.from_pretrained(tmp_path, scorer="likelihood")
    with pytest.raises(UnsupportedModel, match="no causal language model"):
        Engine.from_pretrained(tmp_path).log_likelihood(PAIRS)


def test_a_template_that_rewrites_the_program_is_refused(folder):
    template = "{% for m in messages %}{{ m.content | upper }}\n{% endfor %}"
    engine = Engine.from_pretrained(folder, device="cpu", scorer="likelihood", chat_template=template)
    with pytest.raises(WeightsError, match="does not write the last message"):
        engine.score([("a", "x = 1")])
    trims = "{% for m in messages %}{{ m.content | trim }}\n{% endfor %}"
    engine = Engine.from_pretrained(folder, device="cpu", scorer="likelihood", chat_template=trims)
    assert np.isfinite(engine.score([("a", "\nx = 1\n")])).all()


def test_an_output_layer_of_another_width_is_refused(tmp_path):
    save_random_checkpoint(tmp_path, "qwen3", "CausalLM", vocab_size=300, tie_word_embeddings=True)
    edit_json(tmp_path / "config.json", tie_word_embeddings=False)
    with pytest.raises(UnsupportedModel, match="no causal language model"):
        Engine.from_pretrained(tmp_path, scorer="likelihood")
