"""vLLM's own records of requests and responses, in the environment of `make build/vllm/.installed`."""

import json
import os
import subprocess
from pathlib import Path

import pytest

PYTHON = Path(os.environ.get("VLLM_PYTHON", Path(__file__).parents[3] / "build/vllm/bin/python"))
NUM_EXCHANGES = 17


@pytest.mark.skipif(not PYTHON.exists(), reason="vLLM is not installed: make build/vllm/.installed")
@pytest.mark.parametrize("served", ["nano"], indirect=True)  # importing vLLM takes half of the time
def test_vllms_records_read_every_answer(served, problem, programs, expected):
    messages = [[{"role": "user", "content": problem}, {"role": "assistant", "content": text}] for text in programs]
    texts = [served.render(pair) for pair in messages]
    given = {
        "url": served.url,
        "name": served.name,
        "problem": problem,
        "programs": programs,
        "messages": messages,
        "texts": texts,
        "ids": [served.list_ids(text) for text in texts],
    }
    command = [str(PYTHON), "-P", str(Path(__file__).with_name("exchange.py"))]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    scores = json.loads(done.stdout.splitlines()[-1])
    assert len(scores) == NUM_EXCHANGES
    assert scores == dict.fromkeys(scores, expected)
