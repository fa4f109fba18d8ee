"""How text is read: the system prompt of a folder, and what a digest says of settings."""

import os

import pytest

from codescaler.errors import HostileFile, InvalidInput
from codescaler.text.settings import SYSTEM_FILE, TextSettings, read_system_prompt, write_system_prompt


def test_each_setting_shows_in_what_a_file_keeps():
    plain = TextSettings()
    described = [
        plain.describe(are_programs=False),
        plain.describe(are_programs=True),
        TextSettings(control_tokens="text").describe(are_programs=False),
        TextSettings("Rate it.").describe(are_programs=False),
        TextSettings("Rate it!").describe(are_programs=False),
    ]
    assert all(left != right for index, left in enumerate(described) for right in described[:index])
    assert TextSettings("").describe(are_programs=True) == plain.describe(are_programs=True)
    assert {*described[0]} == {"system_prompt", "control_tokens", "bos", "program_text"}


@pytest.mark.parametrize("settings", [{"system": 3}, {"control_tokens": "both"}])
def test_what_is_no_setting_is_refused(settings):
    with pytest.raises(InvalidInput, match=next(iter(settings))):
        TextSettings(**settings)


def test_the_first_folder_that_has_a_system_prompt_gives_it(tmp_path):
    adapter, base = tmp_path / "adapter", tmp_path / "base"
    adapter.mkdir()
    base.mkdir()
    assert read_system_prompt([adapter, base]) is None
    (base / SYSTEM_FILE).write_bytes("\ufeffRate it.\r\nÉ\r\n".encode())
    assert read_system_prompt([adapter, base]) == "Rate it.\nÉ"
    write_system_prompt(" Rate\n\nmore.", adapter)
    assert read_system_prompt([adapter, base]) == " Rate\n\nmore."
    write_system_prompt(None, adapter)
    assert read_system_prompt([adapter]) == " Rate\n\nmore."
    write_system_prompt("", adapter)
    assert not (adapter / SYSTEM_FILE).exists()


def write_large(path):
    path.write_bytes(b"x" * 70_000)


@pytest.mark.parametrize(
    "make, said",
    [
        (os.mkfifo, "no regular file"),
        (os.mkdir, "no regular file"),
        (lambda path: path.symlink_to("absent"), "no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
        (write_large, "takes more than 65536 bytes"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "is not UTF-8"),
    ],
)
def test_a_hostile_system_prompt_is_refused(tmp_path, make, said):
    make(tmp_path / SYSTEM_FILE)
    with pytest.raises(HostileFile, match=said):
        read_system_prompt([tmp_path])
