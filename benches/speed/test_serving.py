"""The measurement of the server, small: its checks pass, its figures reach the table, and wrong ones are found."""

import asyncio
import json
import threading

import pytest

from benches.harness import http_load
from benches.harness import results as written
from benches.speed import serving
from benches.speed.serving_table import CALL, OPENRLHF, OURS, VLLM, list_lines

SYSTEM = {
    "rows_per_s": [10.0, 20.0],
    "cpu_s_per_row": [0.2, 0.1],
    "peak_bytes": 1000,
    "start_s": 2.0,
    "p50_s": 1.0,
    "p99_s": 2.0,
    "largest_difference": 0.001,
}
TRICKLE = {
    "arrival_s": 30,
    "distinct_tokens": 100,
    "computed_tokens": 110,
    "forward_s": 1.0,
    "p50_s": 0.1,
    "p99_s": 0.2,
}
GOOD = {
    "num_rows": 128,
    "num_connections": 64,
    "systems": {
        CALL: {"rows_per_s": [11.0, 22.0], "cpu_s_per_row": [0.2, 0.1]},
        OURS: SYSTEM,
        VLLM: SYSTEM | {"rows_per_s": [6.0, 12.0], "peak_bytes": 4000},
        OPENRLHF: SYSTEM | {"rows_per_s": [1.0, 2.0]},
    },
    "tokens": {"computed": 110, "distinct": 100},
    "has_same_bits": True,
    "score_deviation": 0.1,
    "lone": {"engine_p50_s": 0.1, "server_p50_s": 0.12},
    "trickle": {"with prefix memory": TRICKLE, "without": TRICKLE},
    "crowd": {"num_connections": 4000, "num_failures": 0},
}


def test_a_small_run_passes_where_speed_does_not_matter(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(written, "RESULTS", tmp_path)
    assert serving.main(["--small", "--dtype", "float32", "--rounds", "1", "--save"]) == 0, capsys.readouterr().out
    figures = json.loads((tmp_path / "serving_0.6b_float32.json").read_text())
    assert figures["has_same_bits"] and set(figures["systems"]) == {CALL, OURS}
    assert figures["crowd"] == {"num_connections": 100, "num_failures": 0}
    assert figures["systems"][OURS]["peak_bytes"] > 50e6 and figures["systems"][OURS]["cpu_s_per_row"][0] >= 0
    trickle = figures["trickle"]["with prefix memory"]
    assert trickle["distinct_tokens"] <= trickle["computed_tokens"] < 2 * trickle["distinct_tokens"]


def test_figures_that_reach_their_targets_pass():
    assert [line.figure for line in list_lines(GOOD) if line.passes is False] == []
    assert sum(line.passes is True for line in list_lines(GOOD)) == 8


@pytest.mark.parametrize(
    "change, figure",
    [
        ({"has_same_bits": False}, "scores have the bits of the call"),
        ({"tokens": {"computed": 111, "distinct": 100}}, "tokens computed / distinct tokens"),
        ({"crowd": {"num_connections": 4000, "num_failures": 1}}, "of 4000 connections in one moment, without a score"),
        ({"lone": {"engine_p50_s": 0.1, "server_p50_s": 0.1201}}, "lone client, p50 / (1.15 x the engine's + 5 ms)"),
        ({CALL: {"rows_per_s": [11.2, 22.4]}}, f"times as fast as {CALL}"),
        ({VLLM: {"rows_per_s": [6.7, 13.4]}}, f"times as fast as {VLLM}"),
        ({VLLM: {"peak_bytes": 3999}}, f"memory beside {VLLM}"),
        ({OPENRLHF: {"rows_per_s": [1.2, 2.3]}}, f"times as fast as {OPENRLHF}"),
    ],
)
def test_a_figure_that_misses_its_target_fails(change, figure):
    systems = {name: system | change.get(name, {}) for name, system in GOOD["systems"].items()}
    figures = GOOD | {name: value for name, value in change.items() if name in GOOD} | {"systems": systems}
    assert [line.figure for line in list_lines(figures) if line.passes is False] == [figure]


@pytest.fixture
def faulty_port():
    """Answers 200 to the body "good", 500 to "bad", and closes the connection on anything else."""

    async def answer(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
        status = {b"good": b"200 OK", b"bad": b"500 Bad"}.get(body)
        if status is not None:
            writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 2\r\n\r\n[]")
        writer.close()

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(answer, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield server.sockets[0].getsockname()[1]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    server.close()
    loop.close()


def test_an_answer_that_is_no_score_is_found(faulty_port):
    assert [answer.body for answer in http_load.post_all(faulty_port, "/", [b"good"] * 3, 2)] == [b"[]"] * 3
    with pytest.raises(RuntimeError, match="answers 500"):
        http_load.post_all(faulty_port, "/", [b"good", b"bad"], 2)
    with pytest.raises(ConnectionResetError):
        http_load.post_all(faulty_port, "/", [b"neither"], 2)
    assert http_load.count_failures(faulty_port, "/", [b"good", b"bad", b"neither", b"good"]) == 2
