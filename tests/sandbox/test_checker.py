"""Exact lines, else numbers."""

import time

import pytest

from codescaler.sandbox.checker import is_expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("3\n", "3"), ("3  \n4\n\n\n", "3\n4"), ("a b", "a b\n"), ("", "\n"), ("3", "3.0"), ("  *\n ***", "  *\n ***"),
        ("0.3333333", "0.33333333333"), ("1e-7", "0.0"), ("100000.05", "100000.0"), ("x 1", "x 1.0"), ("1  2", "1 2"),
        ("x  1.0", "x  1.00"), ("2.50 kg", "2.5 kg"),
        ("123456789012345678901234567890", "123456789012345678901234567890.0"), ("1E3", "1000.0"),
        ("YES\r\nNO\r\n", "YES\nNO"), ("1." + "3" * 5000, "1." + "3" * 4000),
    ],
)  # fmt: skip
def test_right(output, expected):
    assert is_expected(output, expected)


def test_a_long_word_takes_no_time():
    started = time.perf_counter()
    assert not is_expected("1" * 9999 + "x", "5")
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("3", "4"), ("3\n4", "3"), ("3\n\n4", "3\n4"), ("", "0"), ("yes", "YES"), ("1 2", "1 2 3"), (" 3", "4"),
        ("123456789012345678901234567891", "123456789012345678901234567890"), ("3.0000001", "3"), ("nan", "1.0"),
        ("inf", "1.0"), ("0.33", "0.3333333"), ("1_0", "10"), ("1e999999999", "1.5"), ("0x10", "16"), ("a", "1.0"),
        ("\u0663", "3"), ("1" * 20_000, "1.5"), ("100000.2", "100000.0"),
        ("101", "000101"), ("1e5", "100000"), ("3.0", "3"), ("+5", "5"), ("-0", "0"), ("5.0", "005"),
        ("*\n ***", "  *\n ***"), ("* *", "*   *"), ("a  b", "a b"), (" 1 2", "1 2"), ("1 2", "  1 2"),
        ("x 1.0", "x 1"),
        ("a\tb", "a b"), ("1e5", "000100000"),
    ],
)  # fmt: skip
def test_wrong(output, expected):
    assert not is_expected(output, expected)
