"""The step `data audit`: what suites of tests are worth."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from codescaler.commands.data_options import add_sandbox_options, add_step, describe_limits, make_sandbox
from codescaler.commands.options import load_tasks
from codescaler.errors import InvalidInput


def add_audit(steps: Any) -> None:
    """Adds it to the steps of `data`."""
    step = add_step(
        steps,
        "audit",
        _run_audit,
        "Find out what the tests of problems let pass.",
        "file to write; a killed run goes on",
    )
    step.add_argument("tasks", type=Path, help="file of the problems, with tests")
    step.add_argument(
        "--programs", type=Path, action="append", default=[], metavar="GROUPS",
        help="groups whose labels are known from elsewhere; again for more",
    )  # fmt: skip
    step.add_argument("--split", help="problems of this split only")
    step.add_argument("--limit", type=int, help="problems from the first on")
    step.add_argument("--mutants", type=int, default=20, help="of each reference, at most (%(default)s)")
    step.add_argument("--inputs", type=int, default=30, help="that mutants are compared on (%(default)s)")
    step.add_argument("--seed", type=int, default=0, help="of mutants and inputs (%(default)s)")
    step.add_argument(
        "--report", type=Path, action="append", default=[], metavar="FILE",
        help="report to write, .md or .html; again for more",
    )  # fmt: skip
    step.add_argument("--json", action="store_true", help="print the figures as JSON")
    add_sandbox_options(step)


def _run_audit(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from codescaler.data.audit.audit import AuditSettings, audit_tasks, read_known_programs
    from codescaler.data.audit.report import FORMATS, format_summary, read_audit, summarize_audit
    from codescaler.data.sample.sampling import choose_tasks
    from codescaler.io.files import write_text_file
    from codescaler.io.resumable import require_new_file
    from codescaler.io.tables import format_table

    for report in options.report:
        require_new_file(report)
        if report.suffix not in FORMATS:
            raise InvalidInput(f"--report {report}; give a name that ends in {' or '.join(FORMATS)}")
    settings = AuditSettings(options.mutants, options.inputs, options.seed)
    programs = read_known_programs(options.programs)
    tasks = choose_tasks(load_tasks(options.tasks, options.format), options.split, options.limit)
    with make_sandbox(options) as sandbox, tqdm(total=len(tasks), unit=" problems", disable=None) as bar:
        limits = describe_limits(options, sandbox)
        audit_tasks(tasks, options.output, sandbox, settings, limits=limits, programs=programs, advance=bar.update)
    records = read_audit(options.output)
    for report in options.report:
        write_text_file(report, FORMATS[report.suffix](records, f"Audit of {options.tasks.name}"))
    summary = summarize_audit(records)
    print(json.dumps(summary, indent=2) if options.json else format_table(("figure", "value"), format_summary(summary)))
    left_out = f"; {len(tasks) - len(records)} problems without tests are left out" if len(tasks) > len(records) else ""
    print(f"{options.output}: {len(records)} suites{left_out}", file=sys.stderr)
