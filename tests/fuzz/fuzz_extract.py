"""Fuzzes the extractors for as long as asked: `python tests/fuzz/fuzz_extract.py --minutes 60`.

Texts are made by joining, repeating, cutting and splicing pieces that mean something to the fence regex or to a parser.
A child process does the work, so that a crash or a hang is seen and counted, with the text that caused it.
"""

import argparse
import multiprocessing
import random
import sys
import time
import warnings

from codescaler.extract import LANGUAGES, MAX_CODE_CHARS, extract_evaluation_code, extract_training_code, is_valid_code

FENCES = ["`", "``", "```", "```\n", "```python\n", "```cpp\n", "```c++\n", "```é", "```python\nx = 1\n```\n"]
SPACES = ["\n", "\n\n", " ", "    ", "\t", "\r", "\r\n", "\f", "\0", "\x85", "\u2028", "\ufeff", "\ud800", "\udfff"]
SYMBOLS = [*"()[]{}<>'\"\\#=:;,.+-~!*?@|&/_01aé中😀", '"""', "'''", 'f"', 'f"{', 'r#"', 'R"(', "{1:", "1e", "1if"]
SYMBOLS += ["//", "/*", "*/", "/[", "a /*b /", "<-", "=>", "x=>", "->", "::", "==", ":=", "**", "||", "&&", "?:", "..."]
SYMBOLS += ["a<", "a.", "f("]
WORDS = (
    "lambda: not await yield async def class if elif else: try: except: with match case for in import from return pass"
)
WORDS += " int main(){ template< fn func struct let const package f(): a: 1: while(1) switch #if #define ${"
LINES = ["x = '\\d'\n", "int f(int x) { return x; }\n", "def f(x):\n    return x\n", "\\\n"]
PIECES = [*FENCES, *SPACES, *SYMBOLS, *(f"{word} " for word in WORDS.split()), *LINES]
HANG_SECONDS = 20


def make_text(rng):
    parts = []
    for _ in range(rng.randint(1, 12)):
        part = "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 4)))
        parts.append(part * rng.choice([1, 1, 1, 1, 2, 5, 50, rng.randint(1, 3000)]))
    text = "".join(parts)[: 2 * MAX_CODE_CHARS]
    cut = rng.randrange(len(text) + 1)
    return rng.choice(
        [text, text[:cut], text[cut:] + text[:cut], f"```\n{text}\n```", f"```\n{text[:cut]}\n```{text[cut:]}"]
    )


def check(text, language):
    """What must hold for any text; an exception is a failure too."""
    code = extract_training_code(text, language)
    last = extract_evaluation_code(text)
    assert code is None or (code == last and is_valid_code(code, language) and len(code) <= MAX_CODE_CHARS)
    assert last is None or (last == last.strip() and last in text)
    assert is_valid_code(text, language) in (True, False)


def work(seed, languages, connection):
    warnings.simplefilter("error")
    rng = random.Random(seed)
    while True:
        text, language = make_text(rng), rng.choice(languages)
        connection.send((text, language))
        try:
            check(text, language)
        except Exception as error:
            connection.send(f"{type(error).__name__}: {error}")
        else:
            connection.send(None)


def fuzz(minutes, seed, languages):
    """Returns the number of texts that got a verdict, and of failures."""
    end = time.monotonic() + 60 * minutes
    num_texts = num_failures = 0
    slowest = 0.0
    while time.monotonic() < end:
        connection, other_end = multiprocessing.Pipe()
        child = multiprocessing.Process(target=work, args=(seed, languages, other_end), daemon=True)
        child.start()
        other_end.close()
        case = None
        try:
            while time.monotonic() < end:
                case, failure = connection.recv(), "hang"
                started = time.monotonic()
                if connection.poll(HANG_SECONDS):
                    failure = connection.recv()
                slowest = max(slowest, time.monotonic() - started)
                num_texts += failure is None
                if failure:
                    break
            else:
                failure = None
        except EOFError:
            child.join()
            failure = f"exit code {child.exitcode}"
        if failure:
            num_failures += 1
            print(f"FAILED ({failure}), language and text: {case[1]} {case[0]!r:.2000}", flush=True)
        child.kill()
        child.join()
        seed += 1_000_003
    print(f"{num_texts} texts, {num_failures} failures, slowest {slowest:.2f} s")
    return num_failures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--languages", nargs="+", choices=LANGUAGES, default=LANGUAGES)
    arguments = parser.parse_args()
    sys.exit(fuzz(arguments.minutes, arguments.seed, arguments.languages) > 0)
