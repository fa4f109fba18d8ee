"""The command `quantize`."""

import argparse
import json
from pathlib import Path

from codescaler.commands.options import Add, add_engine_options, collect_options
from codescaler.errors import InvalidInput
from codescaler.types import ACTIVATION_BITS, GROUP_SIZES

_RULE_OPTIONS = ("limit", "activation_bits", "dtype")
_OPTIONS = ("base_model", "revision", "local_files_only")


def add_commands(add: Add) -> None:
    """Adds them to the command line."""
    command = add("quantize", _quantize, "Write a reward model with int8, fp8 or int4 weights.")
    command.add_argument("model", help="folder or hub id of a reward model")
    command.add_argument("folder", type=Path, help="folder to write")
    command.add_argument(
        "--quantization", choices=("int8", "fp8", "int4"), default="int8",
        help="int8, which scores faster on CPUs; fp8, for GPUs from sm_89 on; int4, for small files, which score as "
        "fast as before (%(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--sensitivity-data", type=Path, metavar="GROUPS",
        help="groups of programs, four different ones for each problem, on which the change of scores is measured "
        "(programs that come with the package)",
    )  # fmt: skip
    command.add_argument(
        "--group-size", type=int, choices=GROUP_SIZES, help=f"inputs that share a scale of int4 ({GROUP_SIZES[1]})"
    )
    command.add_argument("--json", action="store_true", help="print the report as JSON")
    command.add_argument(
        "--limit", type=float,
        help="change of a problem's scores, over their standard deviation, that int8 may add up to (0.05); inf: all "
        "linear layers are int8",
    )  # fmt: skip
    command.add_argument(
        "--activation-bits", type=int, choices=ACTIVATION_BITS,
        help="fewest bits of a linear layer's activations: 8 is faster on CPUs with a unit for bfloat16, 16 moves "
        "scores less (what is fastest here)",
    )  # fmt: skip
    command.add_argument(
        "--dtype",
        help="float32, bfloat16: of the embedding and of linear layers that stay (auto, as they are)",
    )
    add_engine_options(command, _OPTIONS)


def _quantize(options: argparse.Namespace) -> None:
    from codescaler.commands import reports as report

    shared = {"sensitivity_data": options.sensitivity_data, **collect_options(options, _OPTIONS)}
    if options.quantization == "int4":
        from codescaler.quantize.int4 import quantize_to_int4

        if given := [name for name in _RULE_OPTIONS if getattr(options, name) is not None]:
            raise InvalidInput(f"int4 has no {given[0]}, for it has no rule of layers; leave that option out")
        group_size = options.group_size or GROUP_SIZES[1]
        packed = quantize_to_int4(options.model, options.folder, group_size=group_size, **shared)
        print(json.dumps(report.make_record(packed), indent=2) if options.json else report.format_int4_report(packed))
        return
    from codescaler.quantize.sensitivity import quantize

    if options.group_size is not None:
        raise InvalidInput("group_size is of int4 alone; leave --group-size out, or give --quantization int4")
    settings = {name: getattr(options, name) for name in ("limit", "activation_bits", "quantization")}
    result = quantize(options.model, options.folder, **settings, dtype=options.dtype or "auto", **shared)
    print(json.dumps(result.make_record(), indent=2) if options.json else report.format_quantization_report(result))
