"""Shards of many rows with kill -9 at a third and at two thirds, by hand and by Ray: every row once, the same bits.

CODESCALER_ROWS=100000 is the run whose figures stand in the docs. It takes some minutes.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PYTHON = os.environ.get("CODESCALER_PYTHON", str(Path(__file__).parents[3] / ".venv/bin/python"))
NUM_ROWS = int(os.environ.get("CODESCALER_ROWS", "4000"))
MARK = "CODESCALER_TEST_OF_SHARDS"  # in the environment of what these tests start, so that nothing else is killed
SAVE = """
import sys
from pathlib import Path
from codescaler.testing import save_chat, save_random_checkpoint

folder = Path(sys.argv[1])
save_random_checkpoint(folder, "qwen3", vocab_size=300, pad_token_id=299, num_hidden_layers=2)
save_chat(folder)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    subprocess.run([PYTHON, "-P", "-c", SAVE, str(folder)], check=True)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [
        json.dumps({"id": i, "prompt": f"Add {i // 8}.", "response": f"x + {i % 8} * {i}"}) for i in range(NUM_ROWS)
    ]
    random.Random(0).shuffle(lines)
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def whole(model, rows, tmp_path_factory):
    """The file that one undisturbed process writes."""
    target = tmp_path_factory.mktemp("whole") / "scored.jsonl"
    run(make_command(PYTHON, model, rows, "-o", target))
    return target.read_bytes()


def make_command(python, model, rows, *options):
    engine = ("--model", model, "--num-threads", 1, "--dtype", "float32")
    return [*map(str, (python, "-P", "-m", "codescaler.cli", "score", rows, *engine, *options))]


def run(command):
    subprocess.run(command, check=True, capture_output=True)


def count_rows(folder):
    """Rows that stand in the files of shards so far."""
    count = 0
    for path in folder.glob("shard-*/scored.jsonl*"):
        with contextlib.suppress(FileNotFoundError):  # renamed meanwhile: counted the next time
            count += 0 if path.suffix == ".json" else path.read_bytes().count(b"\n")
    return count


def wait_for_rows(process, folder, count):
    while process.poll() is None and count_rows(folder) < count:
        time.sleep(0.05)
    assert process.poll() is None, f"ended with {process.returncode} before {count} rows"


def check_joined(rows, folder, whole):
    target = folder.with_name("joined.jsonl")
    run([PYTHON, "-P", "-m", "codescaler.cli", "join-shards", str(rows), str(folder), "-o", str(target)])
    joined = target.read_bytes()
    assert joined == whole
    assert sorted(json.loads(line)["id"] for line in joined.splitlines()) == list(range(NUM_ROWS))


def test_a_process_that_is_killed_twice_loses_and_doubles_nothing(model, rows, whole, tmp_path):
    folder = tmp_path / "out"
    for index in (1, 2, 3):
        command = make_command(PYTHON, model, rows, "--out-dir", folder, "--shard", f"{index}/3")
        for count in (NUM_ROWS // 3, 2 * NUM_ROWS // 3):
            if count_rows(folder) < count - 64 and (index - 1) * NUM_ROWS / 3 < count < index * NUM_ROWS / 3 + 200:
                with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
                    wait_for_rows(process, folder, count - 256)
                    process.send_signal(signal.SIGKILL)
                print(f"shard {index}/3 killed at {count_rows(folder)} rows of {NUM_ROWS}")
        run(command)
    check_joined(rows, folder, whole)


def find_workers():
    """Processes of Ray's workers that hold a model, of this test alone."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            is_worker = b"_Worker" in (folder / "cmdline").read_bytes()
            if is_worker and f"{MARK}={os.getpid()}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)
        except OSError:  # ended meanwhile
            continue


@pytest.fixture
def environment(tmp_path):
    """Ray's environment with the project's packages behind its own."""
    place = subprocess.check_output(
        [PYTHON, "-P", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    )
    (tmp_path / "sitecustomize.py").write_text(f"import site\nsite.addsitedir({place.strip()!r})\n")
    ours = {"PYTHONPATH": str(tmp_path), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    return os.environ | ours | {MARK: str(os.getpid()), "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}


def test_ray_replaces_workers_that_are_killed(model, rows, whole, tmp_path, environment):
    folder = tmp_path / "out"
    command = make_command(sys.executable, model, rows, "--out-dir", folder, "--shards", 6, "--ray", 2)
    log = tmp_path / "log"
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output, env=environment) as process:
        try:
            for count in (NUM_ROWS // 3, 2 * NUM_ROWS // 3):
                wait_for_rows(process, folder, count)
                victim = next(find_workers())
                os.kill(victim, signal.SIGKILL)
                print(f"worker {victim} killed at {count_rows(folder)} rows of {NUM_ROWS}")
            assert process.wait(timeout=1800) == 0, log.read_text()[-4000:]
        finally:
            process.terminate()
    assert f"{NUM_ROWS} lines in 6 shards" in log.read_text()
    check_joined(rows, folder, whole)


def test_an_error_of_a_shard_ends_the_run_with_its_name(model, rows, tmp_path, environment):
    broken = tmp_path / "rows.jsonl"
    broken.write_text(rows.read_text() + '{"prompt": "p"}\n')
    command = make_command(sys.executable, model, broken, "--out-dir", tmp_path / "out", "--shards", 2, "--ray", 1)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 2, done.stderr[-4000:]
    assert f"rows.jsonl, line {NUM_ROWS + 1}: response is None" in done.stderr.splitlines()[-1]
