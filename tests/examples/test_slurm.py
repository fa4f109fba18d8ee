"""The Slurm script scores the shard of its task."""

import json
import os
import re
import subprocess
from pathlib import Path

from codescaler import cli

SCRIPT = Path(__file__).parents[2] / "examples/slurm/score.sh"


def test_each_task_scores_its_shard(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, line in (("srun", 'exec "$@"'), ("codescaler", 'printf "%s\\n" "$@"')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    Path("rows.jsonl").write_text(json.dumps({"prompt": "Add 1 and 2.", "response": "print(3)"}))
    count = int(re.search(r"--array=1-(\d+)", SCRIPT.read_text())[1])
    finished = []
    for index in range(1, count + 1):
        task = {
            "SLURM_ARRAY_TASK_ID": str(index),
            "SLURM_CPUS_PER_TASK": "1",
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
        }
        done = subprocess.run(["bash", SCRIPT], env=os.environ | task, capture_output=True, text=True, check=True)
        arguments = done.stdout.splitlines()
        if index in (1, count):
            assert cli.main(arguments) == 0
        finished.append(arguments[arguments.index("--shard") + 1])
    assert finished == [f"{index}/{count}" for index in range(1, count + 1)]
    assert sorted(path.name for path in Path("scored_shards").iterdir()) == [
        f"shard-00001-of-{count:05}",
        f"shard-{count:05}-of-{count:05}",
    ]
