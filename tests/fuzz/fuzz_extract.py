"""Fuzzes the extractors for as long as asked: `python tests/fuzz/fuzz_extract.py --minutes 60`.

Texts are made by joining, repeating, cutting and splicing pieces that mean something to the fence regex or to a parser.
A child process does the work, so that a crash or a hang is seen and counted, with what makes it again.
"""

import argparse
import multiprocessing
import random
import signal
import sys
import time
import warnings

from codescaler.text.extract import (
    LANGUAGES,
    MAX_CODE_CHARS,
    extract_evaluation_code,
    extract_training_code,
    is_valid_code,
)

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
HANG_SECONDS = 20  # of CPU time, so that a busy machine raises no alarm
WAIT_SECONDS = 600  # for one that waits and does nothing
LAST = 10**12


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


def work(seed, numbers, languages, connection):
    warnings.simplefilter("error")
    for number in numbers:
        rng = random.Random(f"{seed}/{number}")
        text, language = make_text(rng), rng.choice(languages)
        connection.send(number)
        signal.setitimer(signal.ITIMER_PROF, HANG_SECONDS)  # kills this process
        try:
            check(text, language)
        except Exception as error:
            connection.send(f"{type(error).__name__}: {error}")
        else:
            connection.send(None)
        signal.setitimer(signal.ITIMER_PROF, 0)


def fuzz(minutes, seed, languages, only):
    """Returns the number of texts that failed to get a verdict."""
    end = time.monotonic() + 60 * minutes
    number, last = only or 0, LAST if only is None else only
    num_failures, slowest = 0, (0.0, -1)
    while number <= last and time.monotonic() < end:
        connection, other_end = multiprocessing.Pipe()
        arguments = (seed, range(number, last + 1), languages, other_end)
        child = multiprocessing.Process(target=work, args=arguments, daemon=True)
        child.start()
        other_end.close()
        failure = None
        while failure is None and number <= last and time.monotonic() < end:
            try:
                number, started = connection.recv(), time.monotonic()
                failure = connection.recv() if connection.poll(WAIT_SECONDS) else f"no verdict in {WAIT_SECONDS} s"
            except EOFError:
                child.join()
                failure = f"exit code {child.exitcode}, -{signal.SIGPROF:d} for {HANG_SECONDS} s of CPU time"
            slowest = max(slowest, (time.monotonic() - started, number))
            if failure is not None:
                num_failures += 1
                print(f"FAILED --seed {seed} --only {number} ({failure})", flush=True)
            number += 1
        child.kill()
        child.join()
    print(f"{number - (only or 0)} texts, {num_failures} failures, slowest {slowest[0]:.2f} s (--only {slowest[1]})")
    return num_failures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one text to try again")
    parser.add_argument("--languages", nargs="+", choices=LANGUAGES, default=LANGUAGES)
    arguments = parser.parse_args()
    sys.exit(fuzz(arguments.minutes, arguments.seed, arguments.languages, arguments.only) > 0)
