"""The command `quantize`."""

import argparse
import json
from pathlib import Path

from codescaler.commands.options import Add, add_engine_options, chosen

_OPTIONS = ("base_model", "revision", "local_files_only")


def add_commands(add: Add) -> None:
    """Adds them to the command line."""
    command = add("quantize", _quantize, "Write a reward model with int8 weights, which scores faster on CPUs.")
    command.add_argument("model", help="folder or hub id of a reward model")
    command.add_argument("folder", type=Path, help="folder to write")
    command.add_argument("--json", action="store_true", help="print the report as JSON")
    add_engine_options(command, _OPTIONS)


def _quantize(options: argparse.Namespace) -> None:
    from codescaler import report
    from codescaler.quantize import quantize

    result = quantize(options.model, options.folder, **chosen(options, _OPTIONS))
    print(json.dumps(result.as_record(), indent=2) if options.json else report.int8_report_text(result))
