"""Answers questions about the engine, a JSON list a line: the name of a function here, and its arguments."""

import contextlib
import io
import json
import sys
import tempfile
from functools import cache
from pathlib import Path

from codescaler import cli
from codescaler.engine import Engine
from codescaler.testing import save_chat, save_random_checkpoint


@cache
def load(folder):
    return Engine.from_pretrained(folder, dtype="float32", num_threads=1)


def save_tiny(folder):
    save_random_checkpoint(Path(folder), "qwen3", vocab_size=300, pad_token_id=299, max_position_embeddings=1024)
    save_chat(Path(folder))
    # Its template begins with BOS, which verl strips. nano has none.
    Path(folder, "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|im_start|>"}))
    return folder


def score(folder, pairs):
    made = [tuple(pair) if isinstance(pair[0], str) else pair for pair in pairs]
    return load(folder).score(made).tolist()


def score_text(folder, text):
    """The score of a text that a template has been applied to."""
    (score,) = load(folder).score_tokens([list_ids(folder, text)])
    return float(score)


def rank(folder, problem, programs):
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()) as printed:
        files = [Path(scratch, f"{index:03}.py") for index in range(len(programs))]
        for file, program in zip(files, programs, strict=True):
            file.write_text(program)
        Path(scratch, "problem.md").write_text(f"{problem}\n")
        options = ["--model", folder, "--dtype", "float32", "--num-threads", "1", "--json"]
        cli.main(["rerank", str(Path(scratch, "problem.md")), *map(str, files), *options])
    return [[record["index"], record["score"]] for record in json.loads(printed.getvalue())["ranking"]]


def render(folder, messages):
    return load(folder).encoder.chat.render(messages)


def list_ids(folder, text):
    return load(folder).encoder.encode_texts([text], ["text"]).sequences[0].tolist()


if __name__ == "__main__":
    answers = sys.stdout
    sys.stdout = sys.stderr  # what anything else prints
    for line in sys.stdin:
        question, *arguments = json.loads(line)
        print(json.dumps(globals()[question](*arguments)), file=answers, flush=True)
