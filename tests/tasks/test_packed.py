import base64
import os
import pickle
import zlib

import pytest

from codescaler.errors import InvalidInput
from codescaler.tasks.packed import unpack_text


def packed(data):
    return base64.b64encode(zlib.compress(data)).decode()


@pytest.mark.parametrize("protocol", range(1, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("text", ["", "é", '[{"input": "1"}]', "x" * 300, "x" * 70_000])
def test_a_pickled_string_is_read(protocol, text):
    assert unpack_text(packed(pickle.dumps(text, protocol)), "here") == text


class Hostile:
    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_hostile_pickle_does_nothing(tmp_path):
    hostile = Hostile()
    hostile.path = tmp_path / "made"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(InvalidInput, match=r"here is neither .*instruction \w+ at byte \d+; one string is allowed"):
            unpack_text(packed(pickle.dumps(hostile, protocol)), "here")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [["a"], ("a", "b"), {"a": 1}, 3, None, b"a", 1.5])
def test_anything_but_one_string_is_refused(value):
    with pytest.raises(InvalidInput, match="here is neither"):
        unpack_text(packed(pickle.dumps(value)), "here")


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "pickle exhausted before seeing STOP"),
        (b"\x80\x04.", "holds no string"),
        (pickle.dumps("a") + b"x", "something after it"),
        (pickle.dumps("a")[:-1], "pickle exhausted"),
        (b"\x80\x04\x8d" + b"\xff" * 8 + b"a.", "expected|size|large"),
        (pickle.dumps("a")[:-1] + b"\x8c\x01b.", "SHORT_BINUNICODE"),
    ],
)
def test_a_damaged_pickle_is_refused(data, message):
    with pytest.raises(InvalidInput, match=message):
        unpack_text(packed(data), "here")


@pytest.mark.parametrize(
    "text",
    ["no base64!", "AAAA", packed(pickle.dumps("a"))[:-8],
     base64.b64encode(zlib.compress(pickle.dumps("a")) + b"x").decode(), "é"],
)  # fmt: skip
def test_what_is_not_packed_is_refused(text):
    with pytest.raises(InvalidInput, match="here is neither a JSON list nor a packed string"):
        unpack_text(text, "here")


def test_a_bomb_is_refused_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr("codescaler.tasks.packed.MAX_UNPACKED_BYTES", 1000)
    assert len(unpack_text(packed(pickle.dumps("x" * 900)), "here")) == 900
    with pytest.raises(InvalidInput, match="here unpacks to more than 1000 bytes"):
        unpack_text(packed(pickle.dumps("x" * 10**7)), "here")
