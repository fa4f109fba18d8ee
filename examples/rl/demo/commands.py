"""Commands of codescaler, called in this process."""

from typing import Any

from codescaler import cli


def run_command(*words: Any) -> None:
    """Runs a command, and ends the run where the command fails."""
    if status := cli.main([*map(str, words)]):
        raise SystemExit(status)
