"""Groups whose prompt is near none of what was learned from: `python benches far GROUPS LEARNED OUT`.

Near is what `codescaler data pairs --held-out` calls so (`codescaler.data.prefer.leakage`).
"""

import argparse
import json
from pathlib import Path

from codescaler.data.prefer.leakage import find_leaks, read_held_out
from codescaler.io.records import parse_group, read_lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python benches far", description=__doc__.partition("\n\n")[0])
    for name in ("groups", "learned", "out"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    records = [(parse_group(record, name), record) for name, _, record in read_lines(options.groups)]
    learned = read_held_out([str(options.learned)])
    near = find_leaks([(group.task_id, group.prompt) for group, _ in records], learned)
    kept = [json.dumps(record) + "\n" for group, record in records if group.task_id not in near]
    options.out.write_text("".join(kept), encoding="utf-8")
    print(f"{len(kept)} of {len(records)} groups; left out: {', '.join(sorted(near)) or 'none'}")


if __name__ == "__main__":
    main()
