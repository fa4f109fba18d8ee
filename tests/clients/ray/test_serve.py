"""examples/ray/serve_app.py on this machine: the engine's bits, siblings on one replica, more replicas under load."""

import json
import os
import re
import socket
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples/ray"
PROBLEMS = [f"Write a function that adds {number} to its argument." for number in range(6)]
PROGRAMS = [f"def f(x):\n    return x + {number}" for number in range(4)]


@pytest.fixture(scope="module")
def url(tmp_path_factory, project_path):
    """The example's application, with room for three replicas and a load that this machine can make."""
    folder = tmp_path_factory.mktemp("path")
    (folder / "sitecustomize.py").write_text(f"import site\nsite.addsitedir({project_path!r})\n")
    patch = pytest.MonkeyPatch()
    for name, value in (("RAY_AUTH_MODE", "disabled"), ("RAY_USAGE_STATS_ENABLED", "0"), ("OMP_NUM_THREADS", "1")):
        patch.setenv(name, value)
    for check in ("READY", "HEALTH"):  # a busy machine answers slowly
        patch.setenv(f"RAY_SERVE_PROXY_{check}_CHECK_TIMEOUT_S", "120")
    patch.setenv("PYTHONPATH", f"{folder}:{EXAMPLES}")
    patch.syspath_prepend(str(EXAMPLES))
    import ray
    import serve_app
    from ray import serve

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    scaling = serve_app.Codescaler._deployment_config.autoscaling_config.model_copy(
        update={"min_replicas": 2, "max_replicas": 3, "target_ongoing_requests": 2.0, "upscale_delay_s": 1.0}
    )
    serve.run(serve_app.Codescaler.options(autoscaling_config=scaling).bind())
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
    ray.shutdown()
    patch.undo()


def send(url, body=None, session=None):
    headers = {"content-type": "application/json"} | ({"x-session-id": session} if session else {})
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return answer.read().decode()


def score(url, problem, program):
    messages = [{"role": "user", "content": problem}, {"role": "assistant", "content": program}]
    return json.loads(send(f"{url}/classify", {"messages": messages}, problem))["data"][0]["probs"][0]


def count_rows(url, problem):
    """Rows that the replica of a problem has scored."""
    return float(re.search(r"^codescaler_rows_total (\S+)$", send(f"{url}/metrics", None, problem), re.MULTILINE)[1])


def test_siblings_meet_on_one_replica_with_the_bits_of_the_engine(url):
    from codescaler.engine import Engine

    pairs = [(problem, program) for problem in PROBLEMS for program in PROGRAMS]
    expected = Engine.from_pretrained().score(pairs).tolist()  # as the example: in the dtype of this machine
    scores = []
    for problem in PROBLEMS:
        before = count_rows(url, problem)
        with ThreadPoolExecutor(len(PROGRAMS)) as pool:
            scores += pool.map(lambda program, problem=problem: score(url, problem, program), PROGRAMS)
        assert count_rows(url, problem) == before + len(PROGRAMS)
    assert scores == expected
    totals = {count_rows(url, problem) for problem in PROBLEMS}
    assert len(totals) >= 2 or sum(totals) < len(expected), "one replica has scored everything"


def test_a_load_starts_another_replica(url):
    from ray import serve

    def count_replicas():
        (application,) = serve.status().applications.values()
        return application.deployments["Codescaler"].replica_states.get("RUNNING", 0)

    assert count_replicas() == 2
    deadline = time.monotonic() + 300
    with ThreadPoolExecutor(32) as pool:
        while count_replicas() < 3 and time.monotonic() < deadline:
            list(pool.map(lambda index: score(url, f"Problem {index}", f"x = {time.time()}"), range(64)))
    assert count_replicas() == 3


@pytest.fixture(scope="module")
def project_path():
    """Where the project's packages are. Ray's environment comes first."""
    python = os.environ.get("CODESCALER_PYTHON", str(Path(__file__).parents[3] / ".venv/bin/python"))
    import subprocess

    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    place = subprocess.check_output([python, "-P", "-c", code], text=True).strip()
    sys.path.append(place)
    import site

    site.addsitedir(place)
    return place
