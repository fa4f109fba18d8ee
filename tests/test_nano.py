"""The model in the package: it loads as any other, within a second, and is what its card says."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from codescaler.checkpoint.download import PACKAGED_MODEL
from codescaler.engine import Engine
from codescaler.evaluate.calibration import CALIBRATION_FILE, read_calibration
from codescaler.evaluate.tables import format_percent
from codescaler.io.records import read_groups
from codescaler.testing import FLOAT32_SCORE_LIMIT
from codescaler.text.chat import load_chat, make_messages

ROOT = Path(__file__).parents[1]
# Scores of the first problem's programs.
MEASURED = (1.0267, 0.6918, 0.2513, -0.9539, 0.035, 0.2943, 0.7757, 0.3501, 0.6971)
MODES = ("tokens", "text")
TITLES = {
    "nano": "nano",
    "teacher": "teacher, 710 MB",
    "smollm2": "log-likelihood of SmolLM2-135M",
    "qwen": "log-likelihood of Qwen2.5-Coder-0.5B",
    "defines": "defines what is asked",
    "longest": "longest",
    "shortest": "shortest",
}
CARD = (PACKAGED_MODEL / "README.md").read_text()


@pytest.fixture(scope="module")
def engine():
    return Engine.from_pretrained(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def groups():
    return list(read_groups(ROOT / "codescaler/examples/mbpp_unseen.jsonl.gz"))


def test_it_is_what_the_card_says(engine):
    config = engine.config
    assert engine.folder == PACKAGED_MODEL and config.packed_bits == {"Linear": 4, "Embedding": 8}
    assert f"{config.num_layers} layers" in CARD and f"{config.vocab_size:,} tokens" in CARD
    assert {path.name for path in PACKAGED_MODEL.iterdir()} >= {"README.md", "LICENSE", CALIBRATION_FILE}


def test_backends_agree_on_real_programs_and_bits_do_not_depend_on_the_batch(engine, groups):
    pairs = [(group.prompt, candidate.code) for group in groups for candidate in group.candidates if candidate.code]
    scores = engine.score(pairs)
    reference = Engine.from_pretrained(device="cpu", dtype="float32", backend="reference").score(pairs)
    assert np.abs(scores - reference).max() <= FLOAT32_SCORE_LIMIT * np.abs(reference).mean()
    assert np.array_equal(engine.score(pairs[::-1])[::-1], scores)
    assert np.array_equal(np.concatenate([engine.score([pair]) for pair in pairs[:5]]), scores[:5])
    assert len(np.unique(scores)) > len(scores) / 2


def test_control_tokens_are_text_as_in_transformers(groups):
    from transformers import AutoTokenizer

    chat, tokenizer = load_chat(PACKAGED_MODEL), AutoTokenizer.from_pretrained(PACKAGED_MODEL)
    pairs = [make_messages((group.prompt, candidate.code)) for group in groups for candidate in group.candidates]
    read = {mode: chat.encode_conversations([(pair, mode) for pair in pairs], [""] * len(pairs)) for mode in MODES}
    assert all(map(np.array_equal, *read.values())), "without control tokens there is one reading"
    tokens = sorted(chat.control_tokens.ids)
    for number, (user, assistant) in enumerate(pairs[:34]):
        code, token = assistant["content"], tokens[number % len(tokens)]
        cut = len(code) * number // 34
        attack = [user, assistant | {"content": f"{code[:cut]}{token}{code[cut:]}{token}{token}"}]
        expected = tokenizer.apply_chat_template(attack, return_dict=False, sanitize_control_tokens=True)
        assert chat.encode_conversations([(attack, "text")], ["row"])[0].tolist() == expected


def test_scores_are_those_of_the_model_that_was_measured(engine, groups):
    """A tensor, a token or a template that changed would show; another instruction set rounds otherwise."""
    scores = engine.score([(groups[0].prompt, candidate.code) for candidate in groups[0].candidates])
    assert scores == pytest.approx(MEASURED, abs=3e-3)


def test_calibration_is_of_this_model(engine):
    calibration = read_calibration(
        PACKAGED_MODEL / CALIBRATION_FILE, engine.head_digest, engine.text.describe(are_programs=True)
    )
    assert calibration.name == "MBPP validation"


def test_first_score_comes_soon_after_torch():
    """A second on a quiet machine (the card has the figure); this one may be busy with other tests."""
    code = """
import time, torch
start = time.perf_counter()
from codescaler.engine import Engine
Engine.from_pretrained().score([("Add two numbers.", "def add(a, b):\\n    return a + b")])
print(time.perf_counter() - start)
"""

    def measure_seconds():
        return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    assert any(measure_seconds() < 3.0 for _ in range(3))


@pytest.mark.parametrize("pool", ["validation", "foreign", "test"])
def test_figures_of_the_card_are_those_measured(pool):
    figures = json.loads((ROOT / f"benches/results/nano_{pool}.json").read_text())["figures"]
    for name, title in TITLES.items():
        values, gain = figures["scorers"][name], figures["gains"]["nano"].get(name)
        cells = [
            title,
            format_percent(values["pair_accuracy"]),
            "" if gain is None else format_percent(gain["pair_accuracy"], "+").replace("-0.0 ", "+0.0 "),
            format_percent(values["pair_accuracy_defining"]),
            format_percent(values["best_of_n_on_mixed"][-1]),
        ]
        assert f"| {' | '.join(cells)} |" in CARD


def test_reading_of_the_card_is_what_was_measured():
    scorers = json.loads((ROOT / "benches/results/reading_nano.json").read_text())["figures"]["scorers"]
    scorers = {name: scorers[name] for name in ("nano", "teacher")}
    rows = [("pairs ranked correctly, own text", "pair_accuracy_own"), ("the fall", "fall")]
    rows.append(("the same, another problem's text", "pair_accuracy_swapped"))
    shown = {title: [figures[key] for figures in scorers.values()] for title, key in rows}
    for kind in scorers["nano"]["before"]:
        shown[f"a correct program before: {kind}"] = [figures["before"][kind] for figures in scorers.values()]
    assert all(map(all, shown.values()))
    for title, (nano, teacher) in shown.items():
        sign = "+" if title == "the fall" else ""
        assert f"| {title} | {format_percent(nano, sign)} | {format_percent(teacher, sign)} |" in CARD, title


def test_rewrites_of_the_card_are_those_measured():
    models = json.loads((ROOT / "benches/results/robustness_nano.json").read_text())["models"]
    for name, rewrite in models["nano"]["rewrites"].items():
        sides = rewrite["pairs_right"]
        for side in ("wrong",) if name == "praised" else ("right", "wrong", "both"):
            shown = f"{100 * sides[side]['accuracy']['mean']:.1f}, {format_percent(sides[side]['gain'], '+')}"
            assert shown in CARD, (name, side)
