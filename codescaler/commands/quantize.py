"""The command `quantize`."""

import argparse
import json
from pathlib import Path

from codescaler.commands.options import Add, add_engine_options, collect_options
from codescaler.types import ACTIVATION_BITS

_OPTIONS = ("base_model", "revision", "local_files_only")


def add_commands(add: Add) -> None:
    """Adds them to the command line."""
    command = add("quantize", _quantize, "Write a reward model with int8 weights, or fp8 weights for GPUs.")
    command.add_argument("model", help="folder or hub id of a reward model")
    command.add_argument("folder", type=Path, help="folder to write")
    command.add_argument(
        "--quantization", choices=("int8", "fp8"), default="int8",
        help="int8, which scores faster on CPUs; or fp8, for GPUs from sm_89 on (%(default)s)",
    )  # fmt: skip
    command.add_argument("--json", action="store_true", help="print the report as JSON")
    command.add_argument(
        "--limit", type=float,
        help="change of a problem's scores, over their standard deviation, that int8 may add up to (0.05); inf: all "
        "linear layers are int8",
    )  # fmt: skip
    command.add_argument(
        "--activation-bits", type=int, choices=ACTIVATION_BITS,
        help="fewest bits of a linear layer's activations: 8 is faster on CPUs with AVX-512 BF16, 16 moves scores "
        "less (what is fastest here)",
    )  # fmt: skip
    command.add_argument(
        "--dtype",
        default="auto",
        help="float32, bfloat16: of the embedding and of linear layers that stay (%(default)s, as they are)",
    )
    add_engine_options(command, _OPTIONS)


def _quantize(options: argparse.Namespace) -> None:
    from codescaler.commands import reports as report
    from codescaler.quantize.sensitivity import quantize

    settings = {name: getattr(options, name) for name in ("limit", "activation_bits", "dtype", "quantization")}
    result = quantize(options.model, options.folder, **settings, **collect_options(options, _OPTIONS))
    print(json.dumps(result.make_record(), indent=2) if options.json else report.format_quantization_report(result))
