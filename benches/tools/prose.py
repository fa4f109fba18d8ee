"""Counts the words and sentences of Markdown pages: `python benches prose README.md docs`.

A sentence ends with `.`, `!` or `?`. Code blocks, headings and tables hold no sentences; code within a line is one
word. A text without such an end, such as a short item of a list, counts for the longest sentence, not for the mean.
"""

import argparse
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from codescaler.io.tables import format_table

# What ends a sentence is followed by white space and by what may begin the next.
_END = re.compile(r"(?<=[.!?])[\"')]*\s+(?=[A-Z0-9`\"'(\[*])")
_CODE = "Code"  # stands for code within a line, which may begin a sentence


@dataclass(frozen=True)
class Prose:
    """What a page says outside of code: sentences, texts without an end, and cells of tables."""

    sentences: tuple[str, ...]
    fragments: tuple[str, ...]
    cells: tuple[str, ...]

    @property
    def mean_length(self) -> float:
        """Words of a sentence, 0 without one."""
        return sum(map(count_words, self.sentences)) / max(1, len(self.sentences))

    @property
    def longest(self) -> str:
        """The longest text, whatever kind it is."""
        return max((*self.sentences, *self.fragments, *self.cells), key=count_words, default="")


def main(options: Sequence[str] | None = None) -> int:
    """Prints one row a page."""
    parser = argparse.ArgumentParser(prog="prose", description="Counts the words and sentences of Markdown pages.")
    parser.add_argument("paths", type=Path, nargs="+", help="pages, or folders of pages")
    rows = []
    for path in parser.parse_args(options).paths:
        for page in sorted(path.rglob("*.md")) if path.is_dir() else [path]:
            text = page.read_text(encoding="utf-8")
            prose = read_prose(text)
            numbers = len(re.findall(r"\d[\d,.]*", text))
            counts = (len(text.split()), text.count("\n"), numbers, len(prose.sentences))
            rows.append([str(page), *map(str, counts), f"{prose.mean_length:.1f}", str(count_words(prose.longest))])
    print(format_table(("page", "words", "lines", "numbers", "sentences", "mean words", "most words"), rows))
    return 0


def read_prose(text: str) -> Prose:
    """Returns the prose of a page in Markdown."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    sentences, fragments, cells = [], [], []
    for before, token in itertools.pairwise(tokens):
        if token.type != "inline" or before.type == "heading_open":
            continue
        words = _read_inline(token)
        if before.type in ("td_open", "th_open"):
            cells.append(words)
            continue
        for sentence in split_sentences(words):
            (sentences if sentence.rstrip("\"')*").endswith((".", "!", "?")) else fragments).append(sentence)
    return Prose(tuple(sentences), tuple(fragments), tuple(cells))


def split_sentences(text: str) -> list[str]:
    """Splits a paragraph after each end of a sentence."""
    return [sentence for sentence in _END.split(text.strip()) if sentence]


def count_words(sentence: str) -> int:
    return sum(any(character.isalnum() for character in word) for word in sentence.split())


def _read_inline(token: Token) -> str:
    return "".join(_read_parts(token.children or []))


def _read_parts(parts: Sequence[Token]) -> Iterator[str]:
    for part in parts:
        if part.type == "text":
            yield part.content
        elif part.type == "code_inline":
            yield _CODE
        elif part.type in ("softbreak", "hardbreak"):
            yield " "


if __name__ == "__main__":
    sys.exit(main())
