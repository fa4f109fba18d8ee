"""OpenRLHF's own executor of single turns: the URL of a server, a local file with our function, and its retries."""

import asyncio
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from openrlhf.utils.agent import SingleTurnAgentExecutor
from trainers import Replacement, score_during, shape
from transformers import AutoTokenizer

NANO = str(Path(__file__).parents[3] / "codescaler/nano")  # the policy: its tokenizer is all that is used
NUM_SAMPLES = 60
FILE = """
from codescaler.integrations.openrlhf import make_reward_func

reward_func = make_reward_func({!r}, problem_in_label=True)
"""


class Engine:
    """Answers as vLLM does, always with the same completion and the end of the turn."""

    def __init__(self, tokenizer, completion):
        ids = tokenizer(completion + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        output = SimpleNamespace(token_ids=ids, text=completion, finish_reason="stop", logprobs=None)
        self._output = SimpleNamespace(outputs=[output])

    async def generate(self, prompt_token_ids, params, multi_modal_data):
        return self._output


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(NANO)


@pytest.fixture
def completions(programs):
    return [f"Here:\n```python\n{program}\n```" for program in programs]


def render(tokenizer, problem):
    """The prompt as OpenRLHF's data set makes it with `--data.apply_chat_template`."""
    messages = [{"role": "user", "content": problem}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


async def execute(executor, tokenizer, prompt, label, completion):
    params = SimpleNamespace(max_tokens=512, logprobs=None)
    return await executor.execute(prompt, label, params, 2048, tokenizer, Engine(tokenizer, completion))


def read_reward(result):
    """The reward as OpenRLHF turns it into a tensor."""
    return torch.tensor([result["reward"]], dtype=torch.float64).flatten().item()


def test_the_url_of_a_server(served, tokenizer, problem, completions):
    """The query is the text of the policy, and is scored as it stands where the reward model has its template."""
    executor = SingleTurnAgentExecutor(f"{served.url}/get_reward")
    prompt = render(tokenizer, problem)

    async def run():
        return await asyncio.gather(*(execute(executor, tokenizer, prompt, "", text) for text in completions))

    results = asyncio.run(run())
    expected = [served.score_text(f"{prompt}{text}{tokenizer.eos_token}") for text in completions]
    assert [read_reward(result) for result in results] == expected
    assert [result["scores"] for result in results] == [[score] for score in expected]


def test_a_local_file(package, served, tokenizer, problem, programs, completions, tmp_path):
    path = tmp_path / "reward.py"
    path.write_text(FILE.format(served.url))
    executor = SingleTurnAgentExecutor(str(path))
    prompt = render(tokenizer, f"Think first.\n{problem}")

    async def run():
        calls = (execute(executor, tokenizer, prompt, problem, text) for text in [*completions, "I pass."])
        return await asyncio.gather(*calls)

    results = asyncio.run(run())
    rewards = [shape(score) for score in served.score([(problem, program) for program in programs])] + [0.0]
    assert [read_reward(result) for result in results] == rewards
    assert [result["extra_logs"] for result in results] == [{"codescaler_valid": float(r > 0)} for r in rewards]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_is_replaced_loses_no_reward(package, tiny, project, tokenizer, problem, number, tmp_path):
    """OpenRLHF tries five times, with a second between, and then has no reward. The file's client waits ten minutes."""
    programs = [f"def add(a, b):\n    return a + b + {index}" for index in range(NUM_SAMPLES)]
    completions = [f"```python\n{program}\n```" for program in programs]
    prompt = render(tokenizer, problem)
    with Replacement(tiny, number) as replacement:
        path = tmp_path / "reward.py"
        path.write_text(FILE.format(replacement.url))
        executors = [SingleTurnAgentExecutor(url) for url in (f"{replacement.url}/get_reward", str(path))]

        async def score(index):
            calls = (execute(each, tokenizer, prompt, problem, completions[index]) for each in executors)
            return [read_reward(result) for result in await asyncio.gather(*calls)]

        scores = asyncio.run(score_during(replacement, score, NUM_SAMPLES))
    assert replacement.code == (0 if number == signal.SIGTERM else -number)
    queries = [f"{prompt}{text}{tokenizer.eos_token}" for text in completions]
    of_texts = [project.ask("score_text", tiny, query) for query in queries]
    of_programs = project.ask("score", tiny, [(problem, program) for program in programs])
    assert scores == [[text, shape(program)] for text, program in zip(of_texts, of_programs, strict=True)]
