"""README, ARCHITECTURE and docs are written in short sentences."""

from pathlib import Path

import pytest

from benches.tools.prose import count_words, read_prose, split_sentences

ROOT = Path(__file__).parents[2]
GENERATED = "docs/benchmarks.md"
MEAN, LONGEST = 15, 30
PAGES = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"]
PAGES += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "example")


@pytest.mark.parametrize("page", PAGES)
def test_sentences_are_short(page):
    prose = read_prose((ROOT / page).read_text(encoding="utf-8"))
    texts = [*prose.sentences, *prose.fragments, *([] if page == GENERATED else prose.cells)]
    long = [text for text in texts if count_words(text) > LONGEST]
    assert not long, "\n".join(f"{count_words(text)} words: {text}" for text in long)
    assert prose.mean_length <= MEAN
    halves = [text for text in (*prose.sentences, *prose.fragments) if ";" in text]
    assert not halves, "\n".join(["two sentences are joined by a semicolon:", *halves])


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 900
    assert text.count("\n") <= 130


def test_sentences_are_split_where_they_end():
    assert split_sentences("One. Two! (Three?) `Four` 5.5 s e.g. this.") == [
        "One.",
        "Two!",
        "(Three?",
        "`Four` 5.5 s e.g. this.",
    ]
    assert count_words("a - b, `c` 5") == 4


def test_prose_leaves_code_and_tables_out():
    prose = read_prose(
        "# A heading. It ends.\n\nRun `a b c; d` in [a folder](b.md).\nSo it ends.\n\n```sh\nmake it. Now\n```\n\n"
        "- an item without an end\n- An item. With two.\n\n| a. B |\n| --- |\n| c d |\n"
    )
    assert prose.sentences == ("Run Code in a folder.", "So it ends.", "An item.", "With two.")
    assert prose.fragments == ("an item without an end",)
    assert prose.cells == ("a. B", "c d")
    assert prose.mean_length == 14 / 4 - 0.75 + 0.25
