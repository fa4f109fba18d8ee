"""Servers as users start them, and what the engine itself scores: the fixtures of every client's tests.

The tests run in the environment of a client, where codescaler is not installed. CODESCALER_PYTHON names a Python that
has it.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

PYTHON = os.environ.get("CODESCALER_PYTHON", str(Path(__file__).parents[2] / ".venv/bin/python"))
OPTIONS = ("--dtype", "float32", "--num-threads", "1")
KEY = "a-key-of-20-letters."
PROBLEM = "Write a function `add` that adds two numbers."
PROGRAMS = [
    "def add(a, b):\n    return a - b",
    "def add(a, b):\n    return a + b",
    "def add(a, b):\n    return sum([a, b])  # \N{SNOWMAN} \u202e",
    "def add(*numbers):\n    print('</script>')\n    return sum(numbers)",
]


class Project:
    """The project's Python, as a process that answers questions (project.py says which)."""

    def __init__(self):
        command = [PYTHON, "-P", str(Path(__file__).with_name("project.py"))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, question, *arguments):
        self._process.stdin.write(json.dumps([question, *arguments]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


class Served:
    """One model behind a server. `name` is what clients call the model by."""

    def __init__(self, url, folder, name, project):
        self.url, self.folder, self.name = url, folder, name
        self._project = project

    def score(self, pairs):
        """What `Engine.score` gives: pairs of problem and program, or lists of messages."""
        return self._project.ask("score", self.folder, pairs)

    def score_text(self, text):
        """What the engine gives for a text that a template has been applied to."""
        return self._project.ask("score_text", self.folder, text)

    def rank(self, problem, programs):
        """Indices and scores, best first, as `codescaler rerank` prints them."""
        return [tuple(row) for row in self._project.ask("rank", self.folder, problem, programs)]

    def render(self, messages):
        """The text of messages that the model's chat template makes."""
        return self._project.ask("render", self.folder, messages)

    def list_ids(self, text):
        """The token ids of a text."""
        return self._project.ask("list_ids", self.folder, text)


@contextlib.contextmanager
def run_server(*arguments, key=""):
    """Runs `codescaler serve` on a free port of this machine while the block lasts, and gives its URL."""
    command = [PYTHON, "-P", "-m", "codescaler.cli", "serve", *arguments, "--port", "0", *OPTIONS]
    environment = os.environ | {"CODESCALER_API_KEY": key}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        lines = []
        try:
            for line in process.stderr:
                lines.append(line)
                if found := re.search(r" on (http://\S+)$", line):
                    break
            else:
                pytest.fail(f"the server ended: {''.join(lines)}")
            threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop the server
            yield found[1]
        finally:
            process.kill()  # SIGTERM would wait for load balancers


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    """Makes `import codescaler` find this checkout. What asks a server needs neither torch nor compiled code."""
    folder = tmp_path_factory.mktemp("path")
    (folder / "codescaler").symlink_to(Path(__file__).parents[2] / "codescaler")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="session")
def project():
    project = Project()
    yield project
    project.close()


@pytest.fixture(scope="session")
def tiny(project, tmp_path_factory):
    """Folder of a small random model."""
    return project.ask("save_tiny", str(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="session", params=["tiny", "nano"])
def served(request, project):
    """A server of a small random model, and one of the model in the package."""
    folder = request.getfixturevalue("tiny") if request.param == "tiny" else "nano"
    with run_server(folder, "--served-name", "a-name") as url:
        yield Served(url, folder, "a-name", project)


@pytest.fixture(scope="session")
def guarded(tiny, project):
    """A server of the small model that wants KEY."""
    with run_server(tiny, key=KEY) as url:
        yield Served(url, tiny, tiny, project)


@pytest.fixture(scope="session")
def start_server():
    """Runs `codescaler serve` with these arguments while a block lasts, and gives its URL."""
    return run_server


@pytest.fixture(scope="session")
def key():
    return KEY


@pytest.fixture(scope="session")
def problem():
    return PROBLEM


@pytest.fixture(scope="session")
def programs():
    return PROGRAMS


@pytest.fixture(scope="session")
def expected(served):
    """The scores of `programs` as the engine gives them, in order."""
    return served.score([(PROBLEM, program) for program in PROGRAMS])


@pytest.fixture(scope="session")
def ranking(served):
    """Indices and scores of `programs`, best first, as `codescaler rerank` prints them."""
    return served.rank(PROBLEM, PROGRAMS)


@pytest.fixture(scope="session")
def nano_ranking(project):
    """`ranking` of the model in the package."""
    return [tuple(row) for row in project.ask("rank", "nano", PROBLEM, PROGRAMS)]
