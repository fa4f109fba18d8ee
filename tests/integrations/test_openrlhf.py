"""OpenRLHF 0.11.2 as it calls: a local file with `reward_func`, on many threads, and its HTTP payload."""

from concurrent.futures import ThreadPoolExecutor
from importlib.util import module_from_spec, spec_from_file_location

import pytest
import torch

from codescaler.errors import InvalidInput
from codescaler.integrations.openrlhf import cut_prompt, make_reward_func

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


@pytest.mark.parametrize("num_cut", [0, 1, 10, len(PROMPT) - 16])
def test_the_prompt_is_cut_off_though_its_beginning_was_cut_off(num_cut):
    assert cut_prompt(f"{PROMPT}{COMPLETIONS[0]}"[num_cut:], PROMPT) == COMPLETIONS[0]


@pytest.mark.parametrize("query", ["", "another text", PROMPT[-15:], "\n```python\n```"])
def test_a_query_without_its_prompt_is_refused(query):
    with pytest.raises(InvalidInput, match="does not begin with the prompt"):
        cut_prompt(query, PROMPT)


def test_the_http_payload_gives_a_list_of_one_number(server, engine):
    text = engine.encoder.chat.render(
        [{"role": "user", "content": PROBLEM}, {"role": "assistant", "content": COMPLETIONS[0]}]
    )
    status, _, answer = send(server.url + "/get_reward", {"query": [text], "prompts": [PROBLEM], "labels": [""]})
    (score,) = engine.score([[{"role": "user", "content": PROBLEM}, {"role": "assistant", "content": COMPLETIONS[0]}]])
    assert (status, answer) == (200, {"rewards": [score], "scores": [score], "extra_logs": {}})
