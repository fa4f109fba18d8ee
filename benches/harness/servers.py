"""Reward servers to measure: ours, vLLM's and OpenRLHF's, each a group of processes with a port on this machine.

A server whose turn it is not is stopped (SIGSTOP), so that it takes no time of another one's turn.
"""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_S = 600.0  # that a server may take until it answers
NAME = "rm"  # of the model, on every server
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Dialect:
    """A route for one text: what is posted, and where the score stands in the answer."""

    path: str
    make_body: Callable[[str], Any]
    find_score: Callable[[Any], float]


# verl's payload for vLLM, and OpenRLHF's own.
CLASSIFY = Dialect(
    "/classify",
    lambda text: {"model": NAME, "input": text, "use_activation": False},
    lambda answer: float(answer["data"][-1]["probs"][-1]),
)
GET_REWARD = Dialect(
    "/get_reward",
    lambda text: {"query": [text], "prompts": [text], "labels": [""]},
    lambda answer: float(answer["rewards"][0]),
)


class Server:
    """A command that serves on `port`; ends with `close`. Its output is kept in `log`."""

    def __init__(
        self, command: Sequence[str | Path], port: int, dialect: Dialect, log: Path, **environment: str
    ) -> None:
        self.port = port
        self.dialect = dialect
        self._log = log
        started = time.perf_counter()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
                env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment,
                start_new_session=True,  # a group of its own, with all processes that it starts
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.close()
            raise
        self.start_s = time.perf_counter() - started

    def _wait_until_it_answers(self) -> None:
        """Raises: RuntimeError, with the end of its output, if it has ended or takes too long."""
        end = time.monotonic() + START_S
        while self._process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.get("/health")  # 404 where there is no such route: it answers all the same
                return
            time.sleep(0.1)
        raise RuntimeError(f"{self._process.args!r:.300} does not answer: {self._log.read_text()[-1500:]}")

    def get(self, path: str) -> str:
        """Returns the text at a path."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return connection.getresponse().read().decode()

    def read_counter(self, name: str) -> float:
        """Returns a counter of codescaler's /metrics."""
        found = re.search(rf"^codescaler_{name}_total(?:\{{.*\}})? (.+)$", self.get("/metrics"), re.MULTILINE)
        assert found is not None, name
        return float(found[1])

    def make_body(self, text: str) -> bytes:
        return json.dumps(self.dialect.make_body(text)).encode()

    def find_score(self, body: bytes) -> float:
        return self.dialect.find_score(json.loads(body))

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Lets it run while the block lasts, and not otherwise."""
        self._send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.stop()

    def stop(self) -> None:
        """Has it take no time until its next turn."""
        self._send_signal(signal.SIGSTOP)

    def close(self) -> None:
        """Ends it, at once if it does not end by itself in half a minute."""
        self._send_signal(signal.SIGCONT)
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        self._send_signal(signal.SIGKILL)
        self._process.wait()

    def _send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def measure_peak_bytes(self) -> int:
        """Returns the largest memory that its processes have held, with a file that several map counted once."""
        found = [re.findall(r"^(VmHWM|RssFile):\s+(\d+) kB$", text, re.MULTILINE) for text in self._read("status")]
        states = [{name: 1024 * int(size) for name, size in state} for state in found]
        files = [state["RssFile"] for state in states]
        return sum(state["VmHWM"] for state in states) - sum(files) + max(files)

    def measure_cpu_s(self) -> float:
        """Returns the CPU time of its processes so far."""
        stats = [text.rpartition(") ")[2].split() for text in self._read("stat")]
        return sum(int(stat[11]) + int(stat[12]) for stat in stats) / TICKS_PER_S

    def _read(self, name: str) -> list[str]:
        """Reads a file under /proc of each process that lives."""
        texts = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                if os.getpgid(int(folder.name)) == self._process.pid:
                    texts.append((folder / name).read_text())
        return texts


def start_codescaler(folder: Path, dtype: str, num_threads: int, *options: str) -> Server:
    """`codescaler serve`."""
    port = _find_port()
    command = [sys.executable, "-m", "codescaler.cli", "serve", str(folder), "--served-name", NAME]
    command += ["--port", str(port), "--device", "cpu", "--dtype", dtype, "--num-threads", str(num_threads), *options]
    return Server(command, port, CLASSIFY, folder / f"codescaler-{port}.log")


def start_vllm(python: Path, folder: Path, dtype: str, num_threads: int) -> Server:
    """The server of vLLM with prefix caching, as `vllm serve` starts it.

    The command itself asks for a distribution called vllm, and the CPU build has another name.
    """
    port = _find_port()
    options = {
        "model": folder,
        "served-model-name": NAME,
        "host": "127.0.0.1",
        "port": port,
        "runner": "pooling",
        "convert": "classify",
        "dtype": dtype,
        "max-model-len": 4096,
        "max-num-batched-tokens": 4096,
    }
    # Absolute, since a server runs in another folder; not resolved, since an environment's interpreter is a link.
    command = [python.absolute(), "-m", "vllm.entrypoints.openai.api_server", "--enable-prefix-caching"]
    command += [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    return Server(
        command,
        port,
        CLASSIFY,
        folder / "vllm.log",
        VLLM_CPU_KVCACHE_SPACE="2",  # GiB
        VLLM_CPU_OMP_THREADS_BIND=f"0-{num_threads - 1}",
        VLLM_LOGGING_LEVEL="WARNING",
    )


def start_openrlhf(python: Path, folder: Path, dtype: str, num_threads: int) -> Server:
    """OpenRLHF's `serve_rm`.

    Raises: RuntimeError if it does not come up, or if `dtype` is not its own.
    """
    if dtype != "bfloat16":
        raise RuntimeError(f"serve_rm computes in bfloat16, not in {dtype}")
    port = _find_port()
    command = [
        python.absolute(),
        "-m",
        "openrlhf.cli.serve_rm",
        "--reward.model_name_or_path",
        folder,
        "--host",
        "127.0.0.1",
    ]
    command += ["--ds.attn_implementation", "sdpa", "--port", str(port)]
    return Server(command, port, GET_REWARD, folder / "openrlhf.log", OMP_NUM_THREADS=str(num_threads))


def _find_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
