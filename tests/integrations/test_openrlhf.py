"""OpenRLHF 0.11.2 as it calls: a local file with `reward_func`, on many threads, and its HTTP payload."""

from concurrent.futures import ThreadPoolExecutor
from importlib.util import module_from_spec, spec_from_file_location

import pytest
import torch

from codescaler.errors import InvalidInput
from codescaler.integrations.openrlhf import make_reward_func
from codescaler.text.queries import cut_prompt

from ..serve.conftest import send
from .conftest import COMPLETIONS, PROBLEM

PROMPT = f"<|user|>\n```python\nThink.\n```\n{PROBLEM}<|assistant|>\n"
FILE = """
from codescaler.integrations.openrlhf import make_reward_func

reward_func = make_reward_func({!r}, problem_in_label=True)
"""


def load_reward_func(path):
    """As `SingleTurnAgentExecutor` does with a URL that ends in .py."""
    spec = spec_from_file_location("reward_func", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.reward_func


def test_a_local_file_rewards_samples_on_many_threads(reward_model, rewards, tmp_path):
    path = tmp_path / "reward.py"
    path.write_text(FILE.format(reward_model))
    reward_func = load_reward_func(path)
    queries = [f"{PROMPT}{completion}<|end|>" for completion in COMPLETIONS]
    with ThreadPoolExecutor(len(queries)) as threads:
        results = list(threads.map(lambda query: reward_func([query], [PROMPT], [PROBLEM]), queries))
    assert [result["rewards"] for result in results] == [[reward] for reward in rewards]
    assert [result["scores"] for result in results] == [[reward] for reward in rewards]
    # OpenRLHF makes tensors of what it logs.
    valid = [torch.tensor([result["extra_logs"]["codescaler_valid"]]).item() for result in results]
    assert valid == [1.0, 1.0, 1.0, 0.0, 0.0]


def test_a_prompt_that_is_the_problem_needs_no_label(reward_model, rewards):
    reward_func = make_reward_func(reward_model)
    queries = [f"{PROBLEM}{completion}" for completion in COMPLETIONS]
    assert reward_func(queries, [PROBLEM] * 5, [""] * 5)["rewards"] == rewards


@pytest.mark.parametrize("label", ["", None])
def test_a_label_that_is_no_problem_is_refused(reward_model, label):
    """OpenRLHF passes an empty one where `--data.label_key` is missing."""
    reward_func = make_reward_func(reward_model, problem_in_label=True)
    with pytest.raises(InvalidInput, match=r"name its column by --data.label_key"):
        reward_func([PROMPT + COMPLETIONS[0]], [PROMPT], [label])


@pytest.mark.parametrize("num_cut", [0, 1, 10, len(PROMPT) - 16])
def test_the_prompt_is_cut_off_though_its_beginning_was_cut_off(num_cut):
    assert cut_prompt(f"{PROMPT}{COMPLETIONS[0]}"[num_cut:], PROMPT) == COMPLETIONS[0]


@pytest.mark.parametrize("query", ["", "another text", PROMPT[-15:], "\n```python\n```"])
def test_a_query_without_its_prompt_is_refused(query):
    with pytest.raises(InvalidInput, match="does not begin with the prompt"):
        cut_prompt(query, PROMPT)


def post(server, path, queries, **fields):
    status, _, answer = send(server.url + path, {"query": queries, "prompts": [PROMPT] * len(queries), **fields})
    assert status == 200, answer
    assert answer["rewards"] == answer["scores"]
    return answer["rewards"]


def make_messages(problem, completion):
    return [{"role": "user", "content": problem}, {"role": "assistant", "content": completion}]


def test_a_query_in_the_template_of_the_reward_model_is_scored_as_it_stands(server, engine):
    messages = make_messages(PROBLEM, COMPLETIONS[0])
    for given in (messages, [{"role": "system", "content": "Be brief."}, *messages]):
        text = engine.encoder.chat.render(given)
        assert post(server, "/get_reward", [text], labels=[""]) == engine.score([given]).tolist()


def test_a_query_in_another_template_is_taken_apart_by_its_prompt(server, engine):
    counted = "codescaler_rebuilt_rows_total"
    before = send(server.url + "/metrics")[2]
    expected = engine.score([make_messages(PROMPT, completion) for completion in COMPLETIONS]).tolist()
    queries = [PROMPT + completion for completion in COMPLETIONS]
    assert post(server, "/get_reward", queries, labels=[""] * 5) == expected
    after = send(server.url + "/metrics")[2]
    numbers = [float(text.partition(f"\n{counted} ")[2].partition("\n")[0]) for text in (before, after)]
    assert numbers[1] - numbers[0] == 5


def test_the_url_may_name_the_label_and_ask_for_the_shaped_reward(server, engine, rewards):
    queries = [f"{PROMPT}{completion}<|end|>" for completion in COMPLETIONS]
    labels = [PROBLEM] * 5
    assert post(server, "/get_reward?shape=true&problem=label", queries, labels=labels) == rewards
    assert post(server, "/get_reward?shape=1&problem=label&language=c", queries[:1], labels=labels[:1]) == [0.0]
    plain = engine.score([make_messages(PROBLEM, f"{completion}<|end|>") for completion in COMPLETIONS]).tolist()
    assert post(server, "/get_reward?problem=label", queries, labels=labels) == plain


@pytest.mark.parametrize(
    "path, body, message",
    [
        ("/get_reward?shaped=true", {}, "the URL may set model, shape, language, problem"),
        ("/get_reward?shape=perhaps", {}, "the URL may set"),
        ("/get_reward?problem=label", {}, "1 queries, 1 prompts and 0 problems"),
        ("/get_reward?problem=label", {"labels": [None]}, "a problem is None"),
        ("/get_reward?problem=label", {"labels": [""]}, "a problem is ''"),
        ("/get_reward?shape=true", {"prompts": None}, "1 queries, 0 prompts"),
        ("/get_reward?shape=true&language=cobol", {}, "'cobol' is not known"),
        ("/get_reward", {"query": ["another text"]}, "does not begin with the prompt"),
    ],
)
def test_a_query_that_cannot_be_scored_says_why(server, path, body, message):
    status, _, answer = send(server.url + path, {"query": [PROMPT + COMPLETIONS[0]], "prompts": [PROMPT]} | body)
    assert (status, message in answer["error"]["message"]) == (400, True), answer
