"""A local model: draws follow the model's distribution, and depend on their own seed only."""

import shutil

import pytest
import torch

from codescaler.data.sample.local_model import LocalModel, TokenSampler, _PackedLinear, draw_tokens
from codescaler.data.sample.sampling import Request, Sampling, sample_tasks
from codescaler.errors import InvalidInput, UnsupportedModel
from codescaler.ops import replace_operations, select_backend
from codescaler.testing import edit_json, save_chat, save_random_checkpoint
from codescaler.types import Task

SAMPLING = Sampling("tiny", max_tokens=12, num_samples=3)
END = 257  # <|im_end|> of `save_chat`


@pytest.fixture(autouse=True)
def one_thread():
    """Two that share a busy core wait for each other at each of a tiny model's thousand operations."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("lm")
    save_random_checkpoint(
        path, "qwen3", "CausalLM", vocab_size=258, pad_token_id=END, bos_token_id=256, eos_token_id=END
    )
    save_chat(path)
    return path


def complete(folder, seeds, batch_size=16, sampling=SAMPLING):
    return next(LocalModel(folder, sampling, batch_size=batch_size).complete([Request("t", "Add.", seeds)]))


def test_a_completion_depends_on_its_seed_alone(folder):
    together = complete(folder, [1, 2, 3, 1])
    assert together[0] == together[3]
    assert len({completion.text for completion in together}) == 3
    assert [complete(folder, [seed])[0] for seed in (1, 2, 3)] == together[:3]
    assert complete(folder, [1, 2, 3, 1], batch_size=3) == together


def test_an_answer_ends_at_its_end_or_is_cut(folder):
    finishes = set()
    for completion in complete(folder, range(40), sampling=Sampling("tiny", temperature=1, top_p=1, max_tokens=60)):
        finishes.add(completion.finish)
        assert "<|im_" not in completion.text
    assert finishes == {"stop", "length"}


def test_the_token_that_ends_is_drawn_too(folder):
    """A trainer learns to end from it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    sampling = Sampling("tiny", temperature=1, top_p=1, max_tokens=60)
    (draws,) = TokenSampler(model, tokenizer, sampling, batch_size=8).draw([([1, 2, 3], range(40))])
    assert {draw.finish for draw in draws} == {"stop", "length"}
    for draw in draws:
        assert draw.tokens.count(END) == (draw.finish == "stop") == (draw.tokens[-1] == END)
        assert len(draw.tokens) == 60 or draw.finish == "stop"


def test_draws_follow_softmax_and_top_p():
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    num_draws = 20_000
    for top_p, kept in ((1.0, [0, 1, 2, 3]), (0.96, [0, 1, 2]), (0.9, [1, 2]), (0.5, [2])):
        weights = torch.zeros(4)
        weights[kept] = (logits / 0.7).softmax(0)[kept]
        expected = weights / weights.sum()
        numbers = torch.rand(num_draws, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        drawn = draw_tokens(logits.expand(num_draws, -1), numbers, 0.7, top_p)
        counts = drawn.bincount(minlength=4) / num_draws
        # Five standard errors of a share.
        assert ((counts - expected).abs() <= 5 * (expected * (1 - expected) / num_draws).sqrt()).all(), top_p


@pytest.mark.parametrize("num_likelier", [0, 63, 1000])
def test_equal_logits_are_equally_likely(num_likelier):
    """They cross the number of tokens that are looked at first."""
    logits = torch.cat([torch.full((num_likelier,), 1.0), torch.zeros(100), torch.full((3000,), -100.0)])
    numbers = torch.linspace(0, 1 - 1e-9, 20_000, dtype=torch.float64)
    drawn = torch.cat([draw_tokens(logits.expand(500, -1), part, 1.0, 1.0) for part in numbers.split(500)])
    expected = logits.double().softmax(-1) * len(numbers)
    assert (drawn.bincount(minlength=len(logits)) - expected).abs().max() <= 1.5


def test_a_token_of_no_chance_is_never_drawn():
    """Rounding of the sums must not leave a gap at their end."""
    logits = torch.randn(64, 20_000, generator=torch.Generator().manual_seed(0)).mul(3)
    logits[:, 10_000:] = -torch.inf
    numbers = torch.full((64,), 1 - 1e-15, dtype=torch.float64)
    for top_p in (0.95, 1.0):
        assert (draw_tokens(logits, numbers, 0.6, top_p) < 10_000).all()


def test_a_nucleus_of_many_tokens_is_whole():
    """More of them than are looked at first; the last number draws the least likely."""
    logits = torch.linspace(0, 1e-3, 3000).expand(3, -1)
    for top_p, least in ((0.99, 30), (1.0, 0)):
        drawn = draw_tokens(logits, torch.tensor([0.0, 0.5, 1 - 1e-12], dtype=torch.float64), 1.0, top_p)
        assert drawn[0] == 2999 and abs(int(drawn[1]) - (2999 + least) / 2) < 10 and drawn[2] == least


def test_a_draw_does_not_depend_on_other_rows():
    """Equal logits are many, and one row needs more of them than the others."""
    logits = torch.randn(20, 3000, generator=torch.Generator().manual_seed(2)).mul(4).bfloat16().float()
    logits[2] = logits[2].sign()
    numbers = torch.rand(20, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for top_p in (0.9, 1.0):
        together = draw_tokens(logits, numbers, 0.8, top_p)
        alone = [draw_tokens(logits[i : i + 1], numbers[i : i + 1], 0.8, top_p) for i in range(20)]
        assert torch.equal(together, torch.cat(alone)), top_p


def test_rows_are_given_on_and_a_completion_stays_the_same(folder, monkeypatch):
    """Prompts of different lengths take turns in fewer rows than there are completions, in a cache that grows.

    The last completions have a batch that is no larger than they need.
    """
    monkeypatch.setattr("codescaler.data.sample.local_model._GROWTH", 16)
    num_rows, step = [], TokenSampler._step
    monkeypatch.setattr(TokenSampler, "_step", lambda *args: (num_rows.append(len(args[1])), step(*args)))
    requests = [Request(f"t/{n}", "Add. " * (1 + 7 * n), range(n, n + 3)) for n in range(5)]
    sampling = Sampling("tiny", max_tokens=40, num_samples=3, temperature=1)
    alone = [next(LocalModel(folder, sampling, batch_size=4).complete([request])) for request in requests]
    num_rows.clear()
    assert list(LocalModel(folder, sampling, batch_size=4).complete(requests)) == alone
    assert len({len(completion.text) for group in alone for completion in group}) > 5
    assert num_rows == sorted(num_rows, reverse=True) and {*num_rows} == {4, 2, 1}


def test_tokens_are_those_of_whole_forwards(folder):
    """Greedy completions of prompts side by side, each row at a position of its own."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    sampling = Sampling("tiny", temperature=0, max_tokens=12, num_samples=1)
    prompts = ["Add.", "Subtract one from the other.", "No."]
    answers = LocalModel(folder, sampling, batch_size=2).complete([Request(p, p, [0]) for p in prompts])
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    for prompt, (completion,) in zip(prompts, answers, strict=True):
        text = f"<|im_start|>user\n{prompt}<|im_end|>\n"
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        length = ids.shape[1]
        while (ids.shape[1] < length + 12 and ids[0, -1] != END) or ids.shape[1] == length:
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
        assert completion.text == tokenizer.decode(ids[0, length:], skip_special_tokens=True)


@pytest.mark.parametrize("is_bf16_fast", [False, True])
def test_linear_maps_are_near_torch_s(is_bf16_fast):
    """Weight, input, bias and result are rounded to bfloat16, 2^-9 each of its own size; the sum is float32."""
    linear = torch.nn.Linear(64, 96)
    x = torch.randn(3, 1, 64)
    packed = _PackedLinear(linear, replace_operations(select_backend("auto", "cpu"), is_bf16_fast=is_bf16_fast))
    y = packed(x)
    assert y.dtype == torch.float32 and y.shape == (3, 1, 96)
    sizes = x.abs() @ linear.weight.abs().T + linear.bias.abs()
    assert ((y - linear(x)).abs() <= sizes * (2**-7 if is_bf16_fast else 1e-6)).all()


def test_a_stopped_run_goes_on_to_the_same_file(folder, tmp_path):
    tasks = [Task(f"t/{index}", f"Problem {index}") for index in range(3)]
    sample_tasks(tasks, LocalModel(folder, SAMPLING), SAMPLING, tmp_path / "whole.jsonl", lambda _: None)

    def stop(_):
        stop.count += 1
        if stop.count == 3:
            raise KeyboardInterrupt

    stop.count = 0
    with pytest.raises(KeyboardInterrupt):
        sample_tasks(tasks, LocalModel(folder, SAMPLING), SAMPLING, tmp_path / "out.jsonl", stop)
    sample_tasks(tasks, LocalModel(folder, SAMPLING), SAMPLING, tmp_path / "out.jsonl", lambda _: None)
    assert (tmp_path / "out.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()


def test_another_model_is_another_identity(folder, tmp_path):
    before = LocalModel(folder, SAMPLING).identity
    save_random_checkpoint(tmp_path, "qwen3", "CausalLM", seed=1, vocab_size=258, pad_token_id=END, eos_token_id=END)
    save_chat(tmp_path)
    assert LocalModel(tmp_path, SAMPLING).identity != before == LocalModel(folder, SAMPLING).identity


def test_what_is_no_chat_model_is_refused(folder, tmp_path):
    with pytest.raises(InvalidInput, match="is no folder"):
        LocalModel(tmp_path / "absent", SAMPLING)
    with pytest.raises(InvalidInput, match="no language model that transformers loads"):
        LocalModel(tmp_path, SAMPLING)
    with pytest.raises(InvalidInput, match="batch size 0"):
        LocalModel(folder, SAMPLING, batch_size=0)
    save_random_checkpoint(tmp_path, "qwen3", "CausalLM", vocab_size=258)
    save_chat(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(UnsupportedModel, match="no chat template"):
        LocalModel(tmp_path, SAMPLING)
    save_chat(tmp_path)
    edit_json(
        tmp_path / "config.json", use_sliding_window=True, sliding_window=8, max_window_layers=0, layer_types=None
    )
    with pytest.raises(UnsupportedModel, match="layers with windows or states"):
        LocalModel(tmp_path, SAMPLING)


def test_attention_that_reads_the_mask_otherwise_is_refused(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    with pytest.raises(UnsupportedModel, match="has 'eager' attention; load it with sdpa"):
        TokenSampler(model, AutoTokenizer.from_pretrained(folder), SAMPLING)


def test_the_folders_own_sampling_settings_do_not_count(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    edit_json(copy / "generation_config.json", repetition_penalty=5.0, top_k=1, do_sample=True)
    assert complete(copy, [1, 2]) == complete(folder, [1, 2])
