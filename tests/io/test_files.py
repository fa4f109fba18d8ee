"""Files that somebody else may have put there. What is no regular file is named, and not followed or waited for."""

import os
import subprocess
import sys

import pytest

from codescaler.errors import HostileFile, MissingTensor, OutputUnavailable
from codescaler.io.files import find_file, open_output, read_file, read_text_file, write_text_file

TAKEN = {
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "a link to 'nowhere'": lambda path: path.symlink_to("nowhere"),
    "a device": lambda path: path.symlink_to("/dev/full"),
}


def take(path, kind):
    TAKEN[kind](path)
    return path


@pytest.mark.parametrize("kind", TAKEN)
def test_a_name_that_is_taken_is_not_absent(tmp_path, kind):
    (tmp_path / "base").mkdir()
    (tmp_path / "base/x.json").write_text("{}")
    take(tmp_path / "x.json", kind)
    with pytest.raises(HostileFile, match=r"x\.json is .*, no regular file; put the file itself there"):
        find_file([tmp_path, tmp_path / "base"], "x.json")
    with pytest.raises(MissingTensor, match="not a regular file"):
        read_file(tmp_path / "x.json", 10)


def test_the_first_folder_that_has_a_file_gives_it(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base/x.json").write_text("{}")
    assert find_file([tmp_path, tmp_path / "base"], "x.json") == tmp_path / "base/x.json"
    (tmp_path / "x.json").symlink_to(tmp_path / "base/x.json")  # as in a cache of the hub
    assert find_file([tmp_path, tmp_path / "base"], "x.json") == tmp_path / "x.json"
    assert find_file([tmp_path], "y.json") is None


def test_a_file_is_read_up_to_its_limit(tmp_path):
    (tmp_path / "x").write_bytes(b"1234")
    assert read_file(tmp_path / "x", 4) == b"1234"
    with pytest.raises(HostileFile, match="takes 4 bytes, above the limit of 3"):
        read_file(tmp_path / "x", 3)
    (tmp_path / "x").write_bytes(b"\xff")
    with pytest.raises(HostileFile, match="is not UTF-8"):
        read_text_file(tmp_path / "x", 4)


@pytest.mark.parametrize("mode", ["w", "a", "a+"])
@pytest.mark.parametrize("kind", TAKEN)
def test_an_output_is_neither_followed_nor_waited_for(tmp_path, kind, mode):
    path = take(tmp_path / "out", kind)
    kind = "a link to '/dev/full'" if kind == "a device" else kind
    with pytest.raises(OutputUnavailable, match=f"out is {kind}, no regular file; give another output"):
        open_output(path, mode)
    assert not (tmp_path / "nowhere").exists()


def test_a_link_to_a_file_leaves_the_file(tmp_path):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "out").symlink_to("precious")
    with pytest.raises(OutputUnavailable, match="a link to 'precious'"):
        write_text_file(tmp_path / "out", "lost")
    assert (tmp_path / "precious").read_text() == "kept"


def test_an_output_is_written_or_named(tmp_path):
    write_text_file(tmp_path / "out", "longer é")
    write_text_file(tmp_path / "out", "é")
    assert (tmp_path / "out").read_text(encoding="utf-8") == "é"
    with pytest.raises(OutputUnavailable, match=r"absent/out cannot be written \(No such file or directory\)"):
        open_output(tmp_path / "absent/out", "w")
    with pytest.raises(OutputUnavailable, match=r"out cannot be written \(File exists\)"):
        open_output(tmp_path / "out", "x")


def test_a_full_disk_is_named(tmp_path):
    """The limit of a file's size stands for a full disk: a write fails in the middle."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from codescaler.io.files import open_output\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "with open_output(Path(sys.argv[1]), 'a+') as file: file.write(b'a' * 20)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "out"], capture_output=True, text=True, check=False)
    assert "OutputUnavailable" in done.stderr and "out cannot be written (File too large); make room" in done.stderr
