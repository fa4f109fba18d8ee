"""Every snippet of README.md and docs/ runs, and prints what its page shows.

A page is one test. Its snippets run in order in a copy of docs/example, so that a later one finds what an earlier one
wrote. What follows a snippet at once in a block of `text` is its output. A comment before a snippet,
`<!-- not run: the reason -->`, leaves it out.
"""

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from markdown_it import MarkdownIt

from codescaler import cli
from codescaler.testing import save_chat, save_random_checkpoint

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
# Models of the hub that pages name, and what stands for them here, where nothing is downloaded.
HUB = {"LARK-Lab/CodeScaler-1.7B": "nano", "HuggingFaceTB/SmolLM2-135M-Instruct": "language-model"}
MOST_NOT_RUN = 7
TOLERANCE = 0.011  # of a number that is shown with a point


@dataclass(frozen=True)
class Snippet:
    language: str
    code: str
    line: int
    output: str | None = None
    why_not_run: str | None = None

    @property
    def commands(self):
        """The command lines of a snippet of `sh`, comments left out."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]

    @property
    def is_ours(self):
        return self.language == "python" or any(words[0] == "codescaler" for words in self.commands)


def read_snippets(text):
    """The snippets of a page in Python and sh."""
    blocks = [
        token
        for token in MarkdownIt("commonmark").parse(text)
        if token.type in ("fence", "html_block") or token.level == 0
    ]
    for before, token, after in zip([None, *blocks], blocks, [*blocks[1:], None], strict=False):
        if token.type != "fence" or token.info not in ("python", "sh"):
            continue
        reason = (
            re.fullmatch(r"<!-- not run: (.+) -->\n*", before.content)
            if before and before.type == "html_block"
            else None
        )
        is_output = after is not None and after.type == "fence" and after.info == "text"
        yield Snippet(
            token.info, token.content, token.map[0] + 1, after.content if is_output else None, reason and reason[1]
        )


ALL = {page: [*read_snippets((ROOT / page).read_text(encoding="utf-8"))] for page in PAGES}


@pytest.fixture(scope="session")
def example(tmp_path_factory):
    """docs/example with a language model and a reward model of a few thousand random weights."""
    folder = tmp_path_factory.mktemp("example") / "example"
    shutil.copytree(ROOT / "docs/example", folder)
    for name, settings in (("language-model", ("llama", "CausalLM")), ("reward-model", ("qwen3",))):
        (folder / name).mkdir()
        save_random_checkpoint(folder / name, *settings, vocab_size=300, pad_token_id=299)
        save_chat(folder / name)
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if any(s.is_ours for s in ALL[page])])
def test_snippets_print_what_the_page_shows(page, example, tmp_path, monkeypatch):
    shutil.copytree(example, tmp_path / "example")
    monkeypatch.chdir(tmp_path / "example")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # pages show what a CPU computes
    names = {"__name__": "__main__"}
    with contextlib.ExitStack() as servers:
        for snippet in ALL[page]:
            if snippet.is_ours and not snippet.why_not_run:
                printed = run_snippet(snippet, names, page, servers)
                if snippet.output is not None:
                    assert is_alike(printed, snippet.output), (
                        f"{page}, line {snippet.line} prints:\n{printed}\nbut the page shows:\n{snippet.output}"
                    )


def run_snippet(snippet, names, page, servers):
    """Runs one snippet here, and returns what it wrote to stdout. A server runs beside it, to the end of the page."""
    code = snippet.code
    for name, stand_in in HUB.items():
        code = code.replace(name, stand_in)
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with contextlib.redirect_stdout(stdout):
        if snippet.language == "python":
            exec(compile("\n" * snippet.line + code, page, "exec"), names)
        else:
            for words in Snippet("sh", code, snippet.line).commands:
                assert words[0] == "codescaler", f"{page}, line {snippet.line}: {words[0]} is not run here"
                if words[1] in ("serve", "play"):
                    quiet = ["--no-browser"] if words[1] == "play" else []
                    server = subprocess.Popen([sys.executable, "-m", "codescaler.cli", *words[1:], *quiet])
                    servers.callback(server.wait)
                    servers.callback(server.terminate)
                    continue
                assert cli.main(words[1:]) == 0, f"{page}, line {snippet.line}: {shlex.join(words)}"
        sys.stdout.flush()
    return stdout.buffer.getvalue().decode()


def is_alike(printed, shown):
    """Whether two outputs say the same: numbers with a point nearly, bars roughly, blanks at will, the rest exactly."""
    left, right = split_output(printed), split_output(shown)
    return len(left) == len(right) and all(map(is_alike_word, left, right))


def split_output(text):
    text = re.sub(
        r"(\d+) of 100 \[(\d+), (\d+)\]",
        lambda m: "of 100 " + " ".join(f"{int(n) / 100:.2f}" for n in m.groups()),
        text,
    )
    return re.findall(r"-?\d+\.\d+|[█▉▊▋▌▍▎▏#]+|[^\s\d█▉▊▋▌▍▎▏#]+|\d+", text)


def is_alike_word(left, right):
    if {left[0], right[0]} <= set("█▉▊▋▌▍▎▏#"):
        return abs(len(left) - len(right)) <= 1
    with contextlib.suppress(ValueError):
        if "." in left and "." in right:
            return abs(float(left) - float(right)) <= TOLERANCE
    return left == right


def test_few_snippets_are_not_run():
    left_out = [snippet for snippets in ALL.values() for snippet in snippets if snippet.why_not_run]
    assert len(left_out) <= MOST_NOT_RUN


def test_other_commands_exist():
    """A line of sh that is not ours installs, is a target of make, or is a bench."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    for page, snippets in ALL.items():
        for words in (words for s in snippets if not s.is_ours and not s.why_not_run for words in s.commands):
            assert words[0] in ("make", "pip", "python", "apt", "git", ".venv/bin/python"), f"{page}: {words}"
            if words[0] == "make" and words[1] != "-f":
                assert words[1] in targets, f"{page}: there is no target {words[1]}"
            if words[0] == "pip":
                assert set(re.findall(r"\[([\w,]+)\]", words[-1])) <= extras, f"{page}: {words[-1]}"
            if "benches" in words[:2]:
                assert words[2] == "gpu" or [*(ROOT / "benches").glob(f"*/{words[2]}.py")], words


def test_a_wrong_output_is_found():
    commands = "a\n\n<!-- not run: slow -->\n```sh\ncodescaler info # b\n```\n"
    text = f"{commands}\n```python\nprint(1.5)\n```\n```text\n1.52\n```\n"
    first, second = read_snippets(text)
    assert first.why_not_run == "slow" and first.commands == [["codescaler", "info"]] and first.output is None
    assert not is_alike(run_snippet(second, {}, "page", None), second.output)
    assert is_alike("1  ████▏  -0.881  72 of 100 [62, 82]", "1  ████   -0.88 73 of 100 [62, 82]")
    assert not is_alike("24 pairs", "25 pairs")
