"""Programs by CommonMark: what the paper's extractors do not find, and what is no program."""

from typing import get_args

import pytest

from codescaler.errors import InvalidInput
from codescaler.text.extraction import EXTRACTORS, check_extraction, extract_code
from codescaler.text.markdown import extract_markdown_code
from codescaler.types import ExtractorName


@pytest.mark.parametrize(
    ("completion", "code"),
    [
        ("Text\n```python\nx = 1\n```\nDone.", "x = 1"),
        ('```python title="a.py" {.numbered}\nx = 1\n```', "x = 1"),
        ("```{.python .numberLines}\nx = 1\n```", "x = 1"),
        ("```Python3 \nx = 1\n```", "x = 1"),
        ("~~~py\nx = 1\n~~~", "x = 1"),
        ("~~~~\nx = '~~~'\n~~~~", "x = '~~~'"),
        ("````python\nx = '''\n```\n'''\n````", "x = '''\n```\n'''"),
        ("1. First:\n\n   ```python\n   if x:\n       y = 1\n   ```\n2. Second", "if x:\n    y = 1"),
        ("> ```python\n> x = 1\n> ```\n", "x = 1"),
        ("  ```python\n  x = 1\n  ```", "x = 1"),
        ("```python\r\nx = 1\r\ny = 2\r\n```\r\n", "x = 1\ny = 2"),
        ("<think>\n```python\nx = 0\n```\n</think>\n```python\nx = 1\n```", "x = 1"),
        ("<think>\n```python\nx = 0\n```\nand so", None),
        ("thought\n```python\nx = 0\n```\n</think>\nno program", None),
        ("```python\nprint(3)\n```\nOutput:\n```\n3\n```", "print(3)"),
        ("```python\nprint(3)\n```\n```text\n3\n```\n```bash\npython a.py\n```", "print(3)"),
        ("```\nprint([1, 2])\n```\nOutput:\n```\n[1, 2]\n```", "print([1, 2])"),
        ("```\ndef f(): pass\n```\n```\nnot a program\n```", "def f(): pass"),
        ("```python\nx = 1\n```\n```python\nx = 2\n```", "x = 2"),
        ("```python\nx =\n```", None),
        ("```cpp\nint x;\n```", None),
        ("x = 1", None),
        ("", None),
        ("inline ```x = 1``` text", None),
    ],
)
def test_examples(completion, code):
    assert extract_markdown_code(completion) == code


@pytest.mark.parametrize("end", ["", "\n", "\nx = 2\n", "\n``"])
def test_an_open_fence_is_a_block_by_option(end):
    completion = f"Text\n```python\nx = 1{end}"
    assert extract_markdown_code(completion) is None
    found = extract_markdown_code(completion, allow_unclosed=True)
    assert found == (None if end == "\n``" else f"x = 1{end}".strip())


def test_other_languages_have_their_names():
    completion = "```c++\nint main() {}\n```\n```js\nlet x = 1;\n```"
    assert extract_markdown_code(completion, "cpp") == "int main() {}"
    assert extract_markdown_code(completion, "javascript") == "let x = 1;"
    with pytest.raises(InvalidInput, match="language 'cobol' is not known"):
        extract_markdown_code("", "cobol")


@pytest.mark.parametrize(
    "text", ["> " * 20_000 + "```", "- " * 20_000, "```\n" * 5001, "[a]: <" * 10_000, "`" * 60_000]
)
def test_hostile_text_is_read_in_time(text):
    for name in EXTRACTORS:
        extract_code(text, name)


def test_a_way_is_chosen_by_name():
    completion = "```python\nx = 0\n```\n~~~python\nx = 1\n~~~\n```\nx =\n```"
    taken = {name: extract_code(completion, name) for name in EXTRACTORS}
    assert taken["paper"] == (None, False) and taken["last"] == ("x =", False)
    assert taken["markdown"] == taken["markdown-unclosed"] == ("x = 1", True)
    assert (check_extraction(True, "python"), check_extraction("last", "python")) == ("paper", "last")
    assert get_args(ExtractorName) == tuple(EXTRACTORS)  # what the command line offers
    with pytest.raises(InvalidInput, match="extract='first' is not known; use one of paper, last, markdown"):
        check_extraction("first", "python")
