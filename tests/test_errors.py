"""Text of files reaches a terminal through error messages only after it was made printable."""

import pytest

from codescaler import errors
from codescaler.errors import CodescalerError, make_printable

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CodescalerError)]
HOSTILE = "\x1b]0;title\x07\x1b[2J\r\n\x9b1m\u202eé\ud800"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_is_one_line_of_printable_text(kind):
    assert str(kind(f"a tensor {HOSTILE}")) == r"a tensor \x1b]0;title\x07\x1b[2J\r\n\x9b1m\u202eé\ud800"


def test_printable_text_stays():
    assert make_printable("é🦀 'x' \\n") == "é🦀 'x' \\n"
