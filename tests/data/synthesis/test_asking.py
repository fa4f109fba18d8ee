"""The object in an answer, whatever is around it."""

import pytest

from codescaler.data.synthesis.asking import read_object


@pytest.mark.parametrize(
    "answer, read",
    [
        ('```json\n{"a": "b"}\n```', {"a": "b"}),
        ('{"a": 1} Note: use {braces}.', {"a": 1}),
        ('{"a": "one\ntwo"}', {"a": "one\ntwo"}),
        ('[{"a": 1}]', {"a": 1}),
        ("{]}", {}),
        ("none", {}),
        ("{" * 100_000, {}),
    ],
)
def test_the_first_object_is_read(answer, read):
    assert read_object(answer) == read
