"""Files that a killed run goes on with: nothing is lost, doubled, or mixed with what other settings made."""

import json
import os
from pathlib import Path

import pytest

from codescaler.errors import InvalidInput, OutputUnavailable
from codescaler.io.resumable import ResumableFile, compute_digest, compute_file_digest

SETTINGS = {"model": "m", "seed": 0}


def write(target, task_ids, settings=SETTINGS, stop_after=None):
    with ResumableFile(target, settings) as output:
        for number, task_id in enumerate(output.skip_done(task_ids, str)):
            if number == stop_after:
                raise KeyboardInterrupt
            output.write({"task_id": task_id})


def test_the_file_appears_when_it_is_whole(tmp_path):
    target = tmp_path / "out.jsonl"
    with ResumableFile(target, SETTINGS) as output:
        output.write({"task_id": "a"})
        assert not target.exists()
    assert target.read_text() == '{"task_id": "a"}\n'
    assert [*tmp_path.iterdir()] == [target]


@pytest.mark.parametrize("tail", ["", '{"task_id": "c', '{"task_id": "c"}'])
def test_a_stopped_run_goes_on_after_the_last_whole_line(tmp_path, tail):
    target = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        write(target, "abcd", stop_after=2)
    with (tmp_path / "out.jsonl.partial").open("a") as file:
        file.write(tail)
    write(target, "abcd")
    assert [json.loads(line)["task_id"] for line in target.read_text().splitlines()] == [*"abcd"]


@pytest.mark.parametrize(
    "task_ids, settings, message",
    [
        ("abcd", {"model": "m", "seed": 1}, "were made with seed 0, and it is 1 now"),
        ("abcd", {"model": "m"}, "with seed 0, and it is None now"),
        ("axcd", SETTINGS, "line 2 is of the task 'b'"),
        ("a", SETTINGS, "line 2 is of the task 'b'"),
    ],
)
def test_other_settings_or_items_are_refused(tmp_path, task_ids, settings, message):
    target = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        write(target, "abcd", stop_after=2)
    before = (tmp_path / "out.jsonl.partial").read_text()
    with pytest.raises(InvalidInput, match=message):
        write(target, task_ids, settings)
    assert (tmp_path / "out.jsonl.partial").read_text() == before


def test_two_runs_at_once_are_refused(tmp_path):
    target = tmp_path / "out.jsonl"
    with ResumableFile(target, SETTINGS), pytest.raises(InvalidInput, match="another run"):
        write(target, "a")


@pytest.mark.parametrize("damage, message", [("not json\n", "line 1 is damaged"), ("{}\n", "line 1 is damaged")])
def test_a_damaged_partial_file_is_refused(tmp_path, damage, message):
    (tmp_path / "out.jsonl.partial").write_text(damage)
    (tmp_path / "out.jsonl.partial.json").write_text(json.dumps(SETTINGS))
    with pytest.raises(InvalidInput, match=message):
        write(tmp_path / "out.jsonl", "a")


def test_settings_that_are_gone_are_no_settings(tmp_path):
    (tmp_path / "out.jsonl.partial").write_text('{"task_id": "a"}\n')
    with pytest.raises(InvalidInput, match=r"partial\.json cannot be read"):
        write(tmp_path / "out.jsonl", "a")


def test_an_output_that_is_there_or_packed_is_refused(tmp_path):
    (tmp_path / "out.jsonl").write_text("")
    with pytest.raises(InvalidInput, match="is there already"):
        ResumableFile(tmp_path / "out.jsonl", SETTINGS)
    with pytest.raises(InvalidInput, match="plain text"):
        ResumableFile(tmp_path / "out.jsonl.gz", SETTINGS)


def test_digests_tell_parts_and_files_apart(tmp_path):
    assert compute_digest(["ab", "c"]) != compute_digest(["a", "bc"])
    assert compute_digest(["\ud800"]) == compute_digest(["\ud800"])
    for name, text in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name).write_text(text)
    digests = {compute_file_digest([tmp_path / name]) for name in "abc"}
    assert len(digests) == 3


@pytest.mark.parametrize("name", ["out.jsonl.partial", "out.jsonl.partial.json"])
@pytest.mark.parametrize(
    "take",
    [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("precious"), lambda path: path.symlink_to("/dev/full")],
)
def test_what_another_put_in_place_of_a_partial_file_is_not_followed(tmp_path, name, take):
    (tmp_path / "precious").write_text("kept")
    take(tmp_path / name)
    with pytest.raises(OutputUnavailable, match=f"{name} is .*, no regular file"):
        write(tmp_path / "out.jsonl", "a")
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_link_to_nothing_is_an_output_that_is_there(tmp_path):
    (tmp_path / "out.jsonl").symlink_to("nowhere")
    with pytest.raises(InvalidInput, match="is there already"):
        ResumableFile(tmp_path / "out.jsonl", SETTINGS)


@pytest.mark.parametrize("settings", ["[]", "7", "{", "[" * 100_000])
def test_settings_that_are_none_are_refused(tmp_path, settings):
    (tmp_path / "out.jsonl.partial").write_text('{"task_id": "a"}\n')
    (tmp_path / "out.jsonl.partial.json").write_text(settings)
    with pytest.raises(InvalidInput, match=r"partial\.json cannot be read"):
        write(tmp_path / "out.jsonl", "a")
