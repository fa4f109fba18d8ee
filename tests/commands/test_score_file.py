"""Files of rows: the text stays, a killed run goes on, and another model does not."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from codescaler.commands.score_file import make_settings, score_file, score_groups
from codescaler.engine import Engine
from codescaler.errors import InvalidInput, OutputUnavailable, WeightsError
from codescaler.testing import edit_tensors, save_chat, save_random_checkpoint

NUM_ROWS = 700  # three windows of text


def row(index):
    prompt = f"Problem {index // 7}: é {{}}"
    if index % 3:
        return json.dumps({"prompt": prompt, "response": f"def f():\n    return {index}", "id": index})
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": f"{index}"}]
    return f'{{ "x": 1.50e3,  "messages":{json.dumps(messages, ensure_ascii=False)} }}'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("rm")
    save_random_checkpoint(path, "qwen3", vocab_size=300, pad_token_id=299)
    save_chat(path)
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("\n".join(map(row, range(NUM_ROWS))) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(folder, rows, tmp_path_factory):
    """The file that an undisturbed run writes."""
    target = tmp_path_factory.mktemp("whole") / "out.jsonl"
    advanced = []
    assert score_file(Engine.from_pretrained(folder), rows, target, advanced.append) == NUM_ROWS
    assert sum(advanced) == NUM_ROWS
    assert [path.name for path in target.parent.iterdir()] == ["out.jsonl"]
    return target.read_text(encoding="utf-8")


def test_every_row_gets_its_score_and_keeps_its_text(folder, rows, whole):
    engine = Engine.from_pretrained(folder)
    source = rows.read_text(encoding="utf-8").splitlines()
    scored = whole.splitlines()
    assert len(scored) == NUM_ROWS
    for before, after in list(zip(source, scored, strict=True))[::50]:
        record, result = json.loads(before), json.loads(after)
        score = result.pop("score")
        assert result == record
        assert after.startswith(before[:-1].rstrip())
        pair = record["messages"] if "messages" in record else (record["prompt"], record["response"])
        assert np.float32(score) == engine.score([pair])[0]


@pytest.mark.parametrize("num_kept, tail", [(0, '{"prompt": "Pro'), (1, ""), (300, '{"pr'), (NUM_ROWS, "")])
def test_a_run_goes_on_where_it_stopped(folder, rows, whole, tmp_path, num_kept, tail):
    target = tmp_path / "out.jsonl"
    engine = Engine.from_pretrained(folder)
    stop_after(engine, rows, target, num_kept, whole)
    partial = tmp_path / "out.jsonl.partial"
    with partial.open("a", encoding="utf-8") as file:
        file.write(tail)
    assert score_file(engine, rows, target, lambda _: None) == NUM_ROWS
    assert target.read_text(encoding="utf-8") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def stop_after(engine, rows, target, num_kept, whole):
    """Leaves what a run leaves that is stopped in its first window, then cuts or fills the rows to `num_kept`."""
    with pytest.raises(KeyboardInterrupt):
        score_file(engine, rows, target, interrupt)
    partial = target.with_name("out.jsonl.partial")
    partial.write_text("".join(whole.splitlines(keepends=True)[:num_kept]), encoding="utf-8")


def interrupt(_):
    raise KeyboardInterrupt


def test_a_killed_process_goes_on(folder, rows, whole, tmp_path):
    """Kill -9 in the middle; the same command again."""
    target, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    command = [sys.executable, "-m", "codescaler.cli", "score", str(rows), "-o", str(target)]
    command += ["--model", str(folder), "--max-batch-tokens", "1000"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (partial.exists() and partial.stat().st_size):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert partial.read_text(encoding="utf-8").count("\n") < NUM_ROWS
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{NUM_ROWS} rows" in done.stderr
    assert target.read_text(encoding="utf-8") == whole


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda folder: edit_tensors(folder / "model.safetensors", negated_head), "scored with probe_score"),
        (lambda folder: (folder / "chat_template.jinja").write_text("{{ messages[1].content }}"), "probe_score"),
        (lambda folder: None, "scored with truncation 'error', and it is 'left' now"),
        (lambda folder: (folder / "system_prompt.txt").write_text("s"), "scored with system_prompt None, and it is"),
        (lambda folder: None, "scored with control_tokens 'tokens', and it is 'text' now"),
    ],
)
def test_another_model_or_setting_does_not_go_on(folder, rows, whole, tmp_path, change, message):
    copy = tmp_path / "rm"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    stop_after(Engine.from_pretrained(copy), rows, tmp_path / "out.jsonl", 5, whole)
    change(copy)
    other = Engine.from_pretrained(
        copy,
        truncation="left" if "truncation" in message else "error",
        control_tokens="text" if "control" in message else None,
    )
    with pytest.raises(InvalidInput, match=message):
        score_file(other, rows, tmp_path / "out.jsonl", lambda _: None)
    assert len((tmp_path / "out.jsonl.partial").read_text(encoding="utf-8").splitlines()) == 5


def negated_head(tensors):
    return tensors | {"score.weight": -tensors["score.weight"]}


def test_a_partial_file_may_end_anywhere(folder, tmp_path):
    """Within a character too: a full disk cuts between any two bytes."""
    rows, target = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    rows.write_text('{"prompt": "é日🦀", "response": "é"}\n' * 2, encoding="utf-8")
    engine = Engine.from_pretrained(folder)
    assert score_file(engine, rows, target, lambda _: None) == 2
    whole = target.read_bytes()
    (tmp_path / "kept.json").write_text(json.dumps(make_settings(engine, are_programs=False)))
    for cut in range(len(whole)):
        target.unlink()
        (tmp_path / "out.jsonl.partial").write_bytes(whole[:cut])
        (tmp_path / "out.jsonl.partial.json").write_bytes((tmp_path / "kept.json").read_bytes())
        told = []
        assert score_file(engine, rows, target, told.append) == sum(told) == 2
        assert target.read_bytes() == whole


def test_two_runs_do_not_write_one_file(folder, rows, tmp_path):
    engine, target = Engine.from_pretrained(folder), tmp_path / "out.jsonl"
    refused = []

    def start_another(_):
        if not refused:
            with pytest.raises(InvalidInput, match="being written by another run") as caught:
                score_file(engine, rows, target, lambda _: None)
            refused.append(caught)

    assert score_file(engine, rows, target, start_another) == NUM_ROWS
    assert refused


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_damaged_settings_are_named(folder, rows, tmp_path, content):
    (tmp_path / "out.jsonl.partial").write_text("x\n")
    (tmp_path / "out.jsonl.partial.json").write_text(content)
    with pytest.raises(InvalidInput, match=r"partial\.json cannot be read"):
        score_file(Engine.from_pretrained(folder), rows, tmp_path / "out.jsonl", lambda _: None)


def test_another_number_of_threads_goes_on(folder, rows, whole, tmp_path):
    stop_after(Engine.from_pretrained(folder, num_threads=2), rows, tmp_path / "out.jsonl", 5, whole)
    told = []
    assert score_file(Engine.from_pretrained(folder, num_threads=1), rows, tmp_path / "out.jsonl", told.append) == 700
    assert sum(told) == NUM_ROWS
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == whole


def test_other_rows_do_not_go_on(folder, rows, whole, tmp_path):
    engine = Engine.from_pretrained(folder)
    stop_after(engine, rows, tmp_path / "out.jsonl", 5, whole)
    changed = tmp_path / "changed.jsonl"
    lines = rows.read_text(encoding="utf-8").splitlines()
    changed.write_text("\n".join([*lines[:3], lines[0], *lines[4:]]), encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"partial, line 4 was not made from .*changed.jsonl, line 4"):
        score_file(engine, changed, tmp_path / "out.jsonl", lambda _: None)
    changed.write_text("\n".join(lines[:3]), encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"line 4 was not made from end of .*changed.jsonl"):
        score_file(engine, changed, tmp_path / "out.jsonl", lambda _: None)


def test_a_bad_row_is_named_and_what_came_before_is_kept(folder, rows, whole, tmp_path):
    engine = Engine.from_pretrained(folder)
    lines = rows.read_text(encoding="utf-8").splitlines()
    broken = tmp_path / "rows.jsonl"
    broken.write_text("\n".join([*lines[:600], '{"prompt": "p"}', *lines[600:]]), encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"rows.jsonl, line 601: response is None"):
        score_file(engine, broken, tmp_path / "out.jsonl", lambda _: None)
    kept = (tmp_path / "out.jsonl.partial").read_text(encoding="utf-8")
    assert kept == "".join(whole.splitlines(keepends=True)[:512])  # two windows of text
    broken.write_text("\n".join(lines), encoding="utf-8")
    score_file(engine, broken, tmp_path / "out.jsonl", lambda _: None)
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == whole


def test_a_row_that_is_too_long_is_named(folder, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n" + json.dumps({"prompt": "p" * 900, "response": ""}))
    with pytest.raises(InvalidInput, match=r"rows.jsonl, line 2 has \d+ tokens, more than max_length=512"):
        score_file(Engine.from_pretrained(folder), rows, tmp_path / "out.jsonl", lambda _: None)


def test_a_packed_output_is_refused(folder, rows, tmp_path):
    with pytest.raises(InvalidInput, match="would be plain text"):
        score_file(Engine.from_pretrained(folder), rows, tmp_path / "out.jsonl.gz", lambda _: None)


def test_a_finished_file_is_not_written_over(folder, rows, tmp_path):
    (tmp_path / "out.jsonl").write_text("mine")
    with pytest.raises(InvalidInput, match="is there already"):
        score_file(Engine.from_pretrained(folder), rows, tmp_path / "out.jsonl", lambda _: None)


def test_a_score_that_is_not_finite_is_an_error(folder, rows, tmp_path):
    copy = tmp_path / "rm"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    edit_tensors(copy / "model.safetensors", lambda tensors: tensors | {"score.weight": torch.full((1, 64), torch.nan)})
    with pytest.raises(WeightsError, match=r"rows.jsonl, line 1 scores nan"):
        score_file(Engine.from_pretrained(copy), rows, tmp_path / "out.jsonl", lambda _: None)
    assert (tmp_path / "out.jsonl.partial").stat().st_size == 0


GROUPS = [
    {
        "task_id": f"t/{task}",
        "prompt": f"Problem {task}",
        "own": 1.5,
        "candidates": [{"code": None, "passed": False}]
        + [{"code": f"def f():\n    return {task + i}", "passed": None, "finish": "stop"} for i in range(task % 3)],
    }
    for task in range(40)
]


def test_every_program_of_a_group_gets_its_score(folder, tmp_path):
    engine = Engine.from_pretrained(folder)
    source, target, told = tmp_path / "groups.jsonl", tmp_path / "scored.jsonl", []
    source.write_text("\n".join(map(json.dumps, GROUPS)) + "\n")
    assert score_groups(engine, source, target, told.append) == sum(told) == len(GROUPS)
    scored = [json.loads(line) for line in target.read_text().splitlines()]
    for before, after in zip(GROUPS, scored, strict=True):
        codes = [c["code"] for c in before["candidates"][1:]]
        scores = engine.score([(before["prompt"], code) for code in codes]).tolist()
        candidates = [{**c, "score": s} for c, s in zip(before["candidates"][1:], scores, strict=True)]
        assert after == before | {"candidates": [before["candidates"][0], *candidates]}

    # A run that was killed goes on, and ends as the undisturbed one.
    again = tmp_path / "again.jsonl"
    ended = []

    def stop(count):
        ended.append(count)
        if sum(ended) == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_groups(engine, source, again, stop)
    assert not again.exists()
    assert score_groups(engine, source, again, told.append) == len(GROUPS)
    assert again.read_bytes() == target.read_bytes()


def test_rows_among_groups_are_refused(folder, tmp_path):
    source = tmp_path / "groups.jsonl"
    source.write_text(f"{json.dumps(GROUPS[1])}\n{row(1)}\n")
    with pytest.raises(InvalidInput, match="line 2 has no candidates"):
        score_groups(Engine.from_pretrained(folder), source, tmp_path / "out.jsonl", int)


@pytest.mark.parametrize("name", ["out.jsonl.partial", "out.jsonl.partial.json"])
@pytest.mark.parametrize("take", [os.mkfifo, lambda path: path.symlink_to("/dev/full")])
def test_what_another_put_in_place_of_a_partial_file_is_not_followed(folder, tmp_path, name, take):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(row(0))
    take(tmp_path / name)
    with pytest.raises(OutputUnavailable, match=f"{name} is .*, no regular file"):
        score_file(Engine.from_pretrained(folder), rows, tmp_path / "out.jsonl", lambda _: None)
