"""Shards: every line once, whatever is killed, and the file of one machine when they are joined."""

import json
import random
import shutil
import signal
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

from codescaler import cli
from codescaler.commands import shards
from codescaler.commands.score_file import score_file, score_groups
from codescaler.commands.shards import Shard, join_shards, list_shards, parse_shard, score_shard
from codescaler.engine import Engine
from codescaler.errors import InvalidInput, OutputUnavailable
from codescaler.testing import save_chat, save_random_checkpoint

NUM_ROWS, NUM_SHARDS = 300, 4


def make_row(index):
    problem, response = f"Problem {index // 6}: é {{}}", f"return {index % 4}"  # some rows stand twice
    record = {"prompt": problem, "response": response}
    if index % 5 == 0:
        turns = [{"role": "user", "content": problem}, {"role": "assistant", "content": response}]
        record = {"id": index, "messages": turns, "system": "Rate it."}
    return json.dumps(record, ensure_ascii=index % 2 == 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("rm")
    save_random_checkpoint(path, "qwen3", vocab_size=300, pad_token_id=299, num_hidden_layers=2)
    save_chat(path)
    return path


@pytest.fixture(scope="module")
def engine(folder):
    return Engine.from_pretrained(folder)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = list(map(make_row, range(NUM_ROWS)))
    random.Random(0).shuffle(lines)
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(engine, rows, tmp_path_factory):
    """What one machine writes."""
    target = tmp_path_factory.mktemp("whole") / "out.jsonl"
    score_file(engine, rows, target, int)
    return target.read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def finished(engine, rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("finished")
    for shard in list_shards(NUM_SHARDS):
        score_shard(engine, rows, path, shard)
    return path


@pytest.fixture
def scored(finished, tmp_path):
    """A folder with all shards, of the test's own."""
    return shutil.copytree(finished, tmp_path / "out")


def join(source, folder):
    lines = []
    assert join_shards(source, folder, lines.append) == len(lines)
    return lines


def read_problem(line):
    record = json.loads(line)
    return record["prompt"] if "prompt" in record else record["messages"][0]["content"] + record["system"]


def test_shards_hold_every_line_once_and_siblings_side_by_side(scored, rows, whole):
    assert sorted(path.name for path in scored.iterdir()) == [shard.name for shard in list_shards(NUM_SHARDS)]
    held = {path.name: (path / "scored.jsonl").read_text(encoding="utf-8").splitlines() for path in scored.iterdir()}
    assert sorted(line for lines in held.values() for line in lines) == sorted(whole)
    assert all(len(lines) > 10 for lines in held.values())
    runs = [problem for lines in held.values() for problem, _ in groupby(lines, read_problem)]
    assert len(runs) == len(set(runs)) == len(set(map(read_problem, whole)))
    for name, lines in held.items():
        assert int((scored / name / "_SUCCESS").read_text()) == len(lines)
    assert join(rows, scored) == whole


def test_the_number_of_shards_does_not_change_what_is_joined(engine, rows, whole, tmp_path):
    for shard in list_shards(1):
        assert score_shard(engine, rows, tmp_path, shard) == NUM_ROWS
    assert join(rows, tmp_path) == whole


class Killed(BaseException):
    """Ends a run where a kill would, without its clean-up."""


def kill(*_):
    raise Killed


@pytest.mark.parametrize("place", ["read", "first row", "between rows", "before _SUCCESS", "before the rename"])
def test_a_killed_shard_goes_on(engine, rows, whole, tmp_path, monkeypatch, place):
    counts = []

    def advance(count):
        counts.append(count)
        if place == "first row" or (place == "between rows" and sum(counts) >= 64):
            raise Killed

    with monkeypatch.context() as patch:
        if place == "read":
            patch.setattr(shards, "read_lines", kill)
        elif place == "before _SUCCESS":
            patch.setattr(shards, "write_text_file", kill)
        elif place == "before the rename":
            patch.setattr(Path, "rename", kill)
        with pytest.raises(Killed):
            score_shard(engine, rows, tmp_path, Shard(1, 2), advance)
    assert [path.name for path in tmp_path.iterdir()] == ["shard-00001-of-00002.partial"]
    with pytest.raises(InvalidInput, match=r"2 of 2 shards are not finished \(1/2, 2/2\)"):
        join_shards(rows, tmp_path, print)
    for shard in list_shards(2):
        score_shard(engine, rows, tmp_path, shard)
    assert join(rows, tmp_path) == whole


KILL = """
import os, signal, sys
from pathlib import Path
from codescaler.commands.shards import Shard, score_shard
from codescaler.engine import Engine

model, rows, folder = map(Path, sys.argv[1:])
kill = lambda count: count and os.kill(os.getpid(), signal.SIGKILL)
score_shard(Engine.from_pretrained(model, num_threads=1), rows, folder, Shard(1, 1), kill)
"""


def test_a_killed_process_goes_on(engine, folder, rows, whole, tmp_path):
    """Kill -9 when some rows are written."""
    done = subprocess.run([sys.executable, "-c", KILL, folder, rows, tmp_path], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    partial = tmp_path / "shard-00001-of-00001.partial/scored.jsonl.partial"
    assert 0 < len(partial.read_bytes().splitlines()) < NUM_ROWS
    score_shard(engine, rows, tmp_path, Shard(1, 1))
    assert join(rows, tmp_path) == whole


def test_a_finished_shard_is_not_scored_again(engine, rows, scored, monkeypatch):
    monkeypatch.setattr(shards, "score_file", kill)
    before = {path: path.stat().st_mtime_ns for path in scored.rglob("*")}
    assert sum(score_shard(engine, rows, scored, shard) for shard in list_shards(NUM_SHARDS)) == NUM_ROWS
    assert {path: path.stat().st_mtime_ns for path in scored.rglob("*")} == before


@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize(
    "options, message",
    [
        ({"truncation": "left"}, "scored with truncation 'error', and it is 'left' now"),
        ({"system": "s"}, "scored with system_prompt None"),
    ],
)
def test_another_setting_does_not_go_on(engine, folder, rows, tmp_path, options, message, is_finished):
    if is_finished:
        score_shard(engine, rows, tmp_path, Shard(1, 2))
    else:
        with pytest.raises(Killed):
            score_shard(engine, rows, tmp_path, Shard(1, 2), kill)
    with pytest.raises(InvalidInput, match=message):
        score_shard(Engine.from_pretrained(folder, **options), rows, tmp_path, Shard(1, 2))


def test_another_file_does_not_go_on(engine, rows, scored, tmp_path):
    longer = tmp_path / "longer.jsonl"
    longer.write_text(rows.read_text(encoding="utf-8") + make_row(0), encoding="utf-8")
    with pytest.raises(InvalidInput, match="scored with source_bytes"):
        score_shard(engine, longer, scored, Shard(1, NUM_SHARDS))


def test_two_runs_do_not_score_one_shard(engine, rows, whole, tmp_path):
    refused = []

    def start_another(_):
        if not refused:
            with pytest.raises(InvalidInput, match="being written by another run") as caught:
                score_shard(engine, rows, tmp_path, Shard(1, 1))
            refused.append(caught)

    assert score_shard(engine, rows, tmp_path, Shard(1, 1), start_another) == NUM_ROWS
    assert refused and join(rows, tmp_path) == whole


def test_a_shard_that_another_run_finishes_meanwhile_stays(engine, rows, whole, tmp_path, monkeypatch):
    lock = shards.lock

    def finish_first(*arguments):
        monkeypatch.setattr(shards, "lock", lock)
        score_shard(engine, rows, tmp_path, Shard(1, 1))
        lock(*arguments)

    monkeypatch.setattr(shards, "lock", finish_first)
    assert score_shard(engine, rows, tmp_path, Shard(1, 1)) == NUM_ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["shard-00001-of-00001"]
    assert join(rows, tmp_path) == whole


def edit_shard(scored, change):
    path = scored / list_shards(NUM_SHARDS)[0].name / "scored.jsonl"
    path.write_text("".join(change(path.read_text(encoding="utf-8").splitlines(keepends=True))), encoding="utf-8")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda lines: lines[:-1], "has no score of .*rows.jsonl, line"),
        (lambda lines: [*lines, lines[-1]], "a scored line is not in"),
        (lambda lines: [lines[0].replace("return", "raise"), *lines[1:]], "was not made from .*rows.jsonl, line"),
        (lambda lines: [lines[0].replace("Problem", "Riddle"), *lines[1:]], "was not made from|has no score of"),
        (lambda lines: [lines[0], *lines], "was not made from|a scored line is not in"),
    ],
)
def test_a_line_that_is_lost_doubled_or_changed_is_found(rows, scored, change, message):
    edit_shard(scored, change)
    with pytest.raises(InvalidInput, match=message):
        join_shards(rows, scored, len)


def test_shards_of_other_settings_are_not_joined(rows, scored):
    path = scored / f"shard-00003-of-0000{NUM_SHARDS}/settings.json"
    path.write_text(path.read_text().replace('"hf"', '"last"'))
    with pytest.raises(InvalidInput, match="scored with pooling 'last', and it is 'hf' now"):
        join_shards(rows, scored, len)


def test_a_missing_shard_and_another_count_are_named(engine, rows, scored):
    (scored / f"shard-00002-of-0000{NUM_SHARDS}").rename(scored.with_name("away"))
    with pytest.raises(InvalidInput, match=r"1 of 4 shards are not finished \(2/4\)"):
        join_shards(rows, scored, len)
    score_shard(engine, rows, scored, Shard(1, 7))
    with pytest.raises(InvalidInput, match="holds shards of 00004 and of 00007"):
        join_shards(rows, scored, len)
    with pytest.raises(InvalidInput, match="holds no shard"):
        join_shards(rows, scored / "nowhere", len)


def test_groups_are_scored_in_shards_too(engine, tmp_path):
    source = tmp_path / "groups.jsonl"
    groups = [
        {"task_id": f"t/{i}", "prompt": f"Problem {i}", "candidates": [{"code": None}, {"code": f"x = {i}"}]}
        for i in range(20)
    ]
    source.write_text("\n".join(map(json.dumps, groups)))
    score_groups(engine, source, tmp_path / "whole.jsonl", int)
    for shard in list_shards(3):
        score_shard(engine, source, tmp_path / "out", shard)
    assert join(source, tmp_path / "out") == (tmp_path / "whole.jsonl").read_text().splitlines()


def test_the_commands_score_shards_and_join_them(folder, rows, whole, tmp_path, capsys):
    score = ["score", str(rows), "--model", str(folder), "--out-dir", str(tmp_path / "out")]
    assert cli.main([*score, "--shard", "2/3"]) == 0
    assert cli.main([*score, "--shards", "3"]) == 0
    assert cli.main(["join-shards", str(rows), str(tmp_path / "out")]) == 0
    assert f"{NUM_ROWS} lines, each line of {rows} once" in capsys.readouterr().err
    target = tmp_path / "joined.jsonl"
    assert cli.main(["join-shards", str(rows), str(tmp_path / "out"), "-o", str(target)]) == 0
    assert target.read_text(encoding="utf-8").splitlines() == whole
    assert not target.with_name("joined.jsonl.partial").exists()
    assert cli.main(["join-shards", str(rows), str(tmp_path / "out"), "-o", str(target)]) == 2


@pytest.mark.parametrize(
    "options, message",
    [
        (["--shard", "0/3", "--out-dir", "d"], "give an index from 1 to 3"),
        (["--shard", "4/3", "--out-dir", "d"], "give an index from 1 to 3"),
        (["--shard", "3", "--out-dir", "d"], "give INDEX/COUNT"),
        (["--shard", "1/-2", "--out-dir", "d"], "give INDEX/COUNT"),
        (["--shards", "0", "--out-dir", "d"], "give a number from 1"),
        (["--shard", "1/2"], "--out-dir goes with"),
        (["--out-dir", "d"], "--out-dir goes with"),
    ],
)
def test_options_that_do_not_fit_are_refused(rows, capsys, options, message):
    assert cli.main(["score", str(rows), *options]) == 2
    assert message in capsys.readouterr().err


def test_a_pipe_is_refused(tmp_path, capsys):
    assert cli.main(["score", "/dev/null", "--out-dir", str(tmp_path), "--shards", "2"]) == 2
    assert "is no regular file" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_named(engine, rows, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputUnavailable, match=r"partial cannot be made \(Not a directory\)"):
        score_shard(engine, rows, tmp_path / "out", Shard(1, 1))


def test_a_shard_is_read_from_its_name():
    assert parse_shard("3/64") == Shard(3, 64)
    assert parse_shard("3/64").name == "shard-00003-of-00064"
