"""Sampled and labelled programs without the text of their problems: `python benches sampled pack|unpack NAME FILE...`.

`pack` reads groups that `codescaler data label` wrote, and writes `benches/quality/data/NAME.jsonl.gz`: a line for each
group with its task_id, its split if there is one, generator and candidates of completion, finish and passed. `unpack`
reads that file and the problems. It puts back the text of each problem and the program of each completion, and writes
groups that every command and bench reads.
"""

import argparse
import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from codescaler.errors import InvalidInput
from codescaler.io.files import write_text_file
from codescaler.io.records import read_lines
from codescaler.tasks import read_tasks
from codescaler.text.extraction import extract_code
from codescaler.types import Task

DATA = Path(__file__).parent / "data"
EXTRACT = "paper"
SAMPLED = ("mbpp_validation", "leetcode_easy", "leetcode_levels")
_KEPT = ("completion", "finish", "passed")


def main(argv: Sequence[str] | None = None) -> None:
    options = _make_parser().parse_args(argv)
    packed = DATA / f"{options.name}.jsonl.gz"
    if options.kind == "pack":
        write_packed(packed, [pack_group(record) for path in options.labelled for _, _, record in read_lines(path)])
    else:
        groups = read_sampled(packed, [task for path in options.problems for task in read_tasks(path)])
        write_groups(options.output, groups)
        print(f"{options.output}: {len(groups)} groups")


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benches sampled", description=__doc__.partition("\n\n")[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    pack = kinds.add_parser("pack")
    pack.add_argument("name")
    pack.add_argument("labelled", type=Path, nargs="+")
    unpack = kinds.add_parser("unpack")
    unpack.add_argument("name", choices=SAMPLED)
    unpack.add_argument("problems", type=Path, nargs="+", help="such as leetcode_train.jsonl.gz")
    unpack.add_argument("-o", "--output", type=Path, required=True, help="file of groups to write, not compressed")
    return parser


def write_groups(path: Path, groups: Iterable[dict[str, Any]]) -> None:
    """Writes a line for each group."""
    write_text_file(path, _format_lines(groups))


def write_packed(path: Path, groups: Sequence[dict[str, Any]]) -> None:
    """Writes a line for each group, the same bytes whenever it is."""
    path.write_bytes(gzip.compress(_format_lines(groups).encode(), mtime=0))
    print(f"{path}: {len(groups)} groups, {path.stat().st_size / 1e3:.0f} kB")


def _format_lines(groups: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(group) + "\n" for group in groups)


def pack_group(record: dict[str, Any]) -> dict[str, Any]:
    """A group without what its problem and its completions say already."""
    candidates = [{key: candidate[key] for key in _KEPT} for candidate in record["candidates"]]
    facts = {key: record[key] for key in ("task_id", "split", "generator") if key in record}
    return {**facts, "candidates": candidates}


def read_sampled(path: Path, tasks: Iterable[Task]) -> list[dict[str, Any]]:
    """The groups of a packed file, as `codescaler data label` had them.

    Raises: InvalidInput if a problem is not among the tasks.
    """
    prompts = {task.task_id: task.prompt for task in tasks}
    records = [record for _, _, record in read_lines(path)]
    for record in records:
        if record["task_id"] not in prompts:
            raise InvalidInput(f"{path}: {record['task_id']} is not among the problems; name the file that holds it")
    return [
        {
            **record,
            "prompt": prompts[record["task_id"]],
            "candidates": [
                {**candidate, "code": extract_code(candidate["completion"], EXTRACT)[0]}
                for candidate in record["candidates"]
            ],
        }
        for record in records
    ]


if __name__ == "__main__":
    main()
