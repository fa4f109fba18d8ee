"""The command `codescaler`. Its commands are in `codescaler.commands`.

Results go to stdout, everything else to stderr. Exit codes: 0 done; 2 the input or the command line is at fault; 3 the
checkpoint is; 4 this machine lacks something, or a server does not answer; 5 a file cannot be written; 130 interrupted.
"""

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence

from codescaler import __version__
from codescaler.commands import data, evaluate, explain, machine, quantize, rerank, score, serve, train
from codescaler.commands.options import Run
from codescaler.errors import (
    BackendUnavailable,
    CapacityExceeded,
    CodescalerError,
    EndpointUnavailable,
    InvalidInput,
    OutputUnavailable,
    SandboxUnavailable,
    make_printable,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    options = _make_parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not know every character of a program
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    try:
        options.run(options)
        sys.stdout.flush()
    except CodescalerError as error:
        print(f"codescaler: {error}", file=sys.stderr)
        if isinstance(error, (InvalidInput, CapacityExceeded)):
            return 2
        if isinstance(error, OutputUnavailable):
            return 5
        return 4 if isinstance(error, (BackendUnavailable, SandboxUnavailable, EndpointUnavailable)) else 3
    except KeyboardInterrupt:
        print("codescaler: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"codescaler: {make_printable(str(error))}; what was written so far is kept", file=sys.stderr)
        return 5
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="codescaler", description="Puts scores on programs with a reward model.")
    parser.add_argument("--version", action="version", version=f"codescaler {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more on stderr")
    commands = parser.add_subparsers(metavar="command", required=True)

    def add(name: str, run: Run, summary: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=summary)
        command.set_defaults(run=run)
        return command

    for family in (score, rerank, explain, serve, train, quantize, data, evaluate, machine):
        family.add_commands(add)
    return parser


if __name__ == "__main__":
    sys.exit(main())
