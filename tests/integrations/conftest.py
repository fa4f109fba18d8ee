"""One small reward model, in this process and behind a server, each named as a trainer is told of it."""

import pytest

from codescaler.integrations import scorers
from codescaler.testing import save_chat, save_random_checkpoint
from codescaler.text.shaping import shaped_reward

from ..serve.conftest import serve

PROBLEM = "Write a function to add two numbers."
CODES = ["def add(a, b):\n    return a + b", "def add(a, b):\n    return a - b", "def add(*n):\n    return sum(n)"]
COMPLETIONS = [f"Here it is:\n```python\n{code}\n```" for code in CODES] + ["```python\ndef add(a, b:\n```", "I pass."]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("rm")
    save_random_checkpoint(path, "qwen3", vocab_size=300, pad_token_id=299)
    save_chat(path)
    return path


@pytest.fixture(scope="session")
def engine(folder):
    """The engine that a trainer gets if it names the folder."""
    return scorers.open_scorer(str(folder))


@pytest.fixture(scope="session")
def server(engine, folder):
    with serve((engine, (str(folder), "tiny"))) as running:
        yield running


@pytest.fixture(params=["in process", "over HTTP"])
def reward_model(request, folder):
    """What a trainer is told: a folder, or the URL of a server."""
    return str(folder) if request.param == "in process" else request.getfixturevalue("server").url


@pytest.fixture(scope="session")
def scores(engine):
    return engine.score([(PROBLEM, code) for code in CODES]).tolist()


@pytest.fixture(scope="session")
def rewards(scores):
    """Those of COMPLETIONS."""
    return [*(shaped_reward(score, is_valid=True) for score in scores), 0.0, 0.0]
