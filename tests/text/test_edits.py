from codescaler.text.edits import apply_edits


def test_edits_count_bytes_and_may_come_in_any_order():
    code = "é = 1\nb = é"
    edits = [(2, 4, 2, 6, "a"), (1, 0, 1, 2, "a"), (2, 0, 2, 0, "# b\n")]
    assert apply_edits(code, edits) == apply_edits(code, reversed(edits)) == "a = 1\n# b\nb = a"
    assert apply_edits("a\nb\nc", [(1, 1, 3, 0, "")]) == "ac"
    assert apply_edits(code, []) == code
