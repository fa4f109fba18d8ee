"""Fuzzes chat templates beside transformers: `python tests/fuzz/fuzz_template.py --minutes 20 --seed 1`.

Templates of the tests, or of `--folder`, are cut, spliced and mixed. What codescaler renders must be what transformers
renders, and any other outcome is a `CodescalerError`. A child process does the work within limits of memory and time.
"""

import argparse
import multiprocessing
import random
import resource
import signal
import sys
import time
import warnings
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from fuzz_loader import mutate_template

OWN = Path(__file__).parent.parent / "text/templates"
HANG_SECONDS = 20  # of CPU time, so that a busy machine raises no alarm
WAIT_SECONDS = 600  # for one that waits and does nothing
MEMORY_BYTES = 2**31  # address space that the child may take beyond what it has at its start
ROLES = ["user", "user", "assistant", "assistant", "system", "tool", "", "Usér"]
CONTENTS = ["", "a", " x = 1\n\n", "<|im_end|>", "</think>", "{{ 7 * 7 }}", "é🦀\u2028\0", "a b " * 2000, "<b>&'\"\r\n"]
VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}


def make_case(rng, sources):
    """Returns a template and messages."""
    source = rng.choice(sources)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 4])):
        source = mutate_template(source.encode(errors="surrogatepass"), rng)[1].decode(errors="surrogatepass")
    num_turns = rng.choice([1, 2, 2, 2, 3, 5])
    roles = rng.choice([["system", "user", "assistant"], ["user", "assistant"] * 3, rng.choices(ROLES, k=num_turns)])
    return source, [{"role": role, "content": rng.choice(CONTENTS)} for role in roles[:num_turns]]


def check(source, messages):
    """What must hold for any template; returns whether it rendered. An exception is a failure."""
    from transformers.utils.chat_template_utils import render_jinja_template

    from codescaler.errors import CodescalerError
    from codescaler.text.template import ChatTemplate

    try:
        template = ChatTemplate(source, "x.jinja")
        found = template.render(messages, VARIABLES)
    except CodescalerError as error:
        if len(str(error)) < 20 or not str(error).isprintable():
            raise AssertionError(f"an error that says nothing, or not in print: {error!r}") from error
        return False
    assert found == template.render(messages, VARIABLES), "another text the second time"
    if "10**9" in source:  # transformers computes it, with all memory, even where it is not reached
        return True
    expected = render_jinja_template([messages], chat_template=source, **VARIABLES)[0][0]
    assert found == expected, f"{found!a:.200} and {expected!a:.200}"
    return True


def work(seed, numbers, sources, connection):
    warnings.simplefilter("ignore")
    check("{{ messages }}", [{"role": "user", "content": "a"}])  # imports
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY_BYTES, resource.RLIM_INFINITY))
    for number in numbers:
        case = make_case(random.Random(f"{seed}/{number}"), sources)
        connection.send(number)
        signal.setitimer(signal.ITIMER_PROF, HANG_SECONDS)  # kills this process
        try:
            connection.send("rendered" if check(*case) else "refused")
        except Exception as error:
            connection.send(f"{type(error).__name__}: {error}")
        signal.setitimer(signal.ITIMER_PROF, 0)


def fuzz(minutes, seed, sources, only):
    """Returns the number of templates that failed."""
    end = time.monotonic() + 60 * minutes
    number, last = only or 0, 10**12 if only is None else only
    counts = dict.fromkeys(("rendered", "refused", "failed"), 0)
    slowest = (0.0, -1)
    while number <= last and time.monotonic() < end:
        connection, other_end = multiprocessing.Pipe()
        arguments = (seed, range(number, last + 1), sources, other_end)
        child = multiprocessing.Process(target=work, args=arguments, daemon=True)
        child.start()
        other_end.close()
        is_alive = True
        while is_alive and number <= last and time.monotonic() < end:
            try:
                number, started = connection.recv(), time.monotonic()
                verdict = connection.recv() if connection.poll(WAIT_SECONDS) else f"no verdict in {WAIT_SECONDS} s"
            except EOFError:
                child.join()
                is_alive = False
                verdict = f"exit code {child.exitcode}, -{signal.SIGPROF:d} for {HANG_SECONDS} s of CPU time"
            slowest = max(slowest, (time.monotonic() - started, number))
            counts[verdict if verdict in counts else "failed"] += 1
            if verdict not in counts:
                print(f"FAILED --seed {seed} --only {number} ({verdict:.600})", flush=True)
            number += 1
        child.kill()
        child.join()
    split = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    print(f"{sum(counts.values())} templates: {split}; slowest {slowest[0]:.2f} s (--only {slowest[1]})")
    return counts["failed"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one template to try again")
    parser.add_argument("--folder", type=Path, default=OWN, help="templates to start from, files *.jinja")
    arguments = parser.parse_args()
    sources = [path.read_text(encoding="utf-8") for path in sorted(arguments.folder.rglob("*.jinja"))]
    sys.exit(fuzz(arguments.minutes, arguments.seed, sources, arguments.only) > 0)
