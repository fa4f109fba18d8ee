"""Requests made from the server's own description, right and wrong ones, against the server.

FUZZ_SECONDS=1200 tries for longer than the minute of a client's test.
"""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path


def test_no_request_breaks_the_server(tiny, start_server, tmp_path):
    seconds = os.environ.get("FUZZ_SECONDS", "45")
    with start_server(tiny) as url:
        command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json", "--seed", "24"]
        command += ["--phases", "coverage,fuzzing", "--max-time", seconds, "--request-timeout", "30"]
        command += ["--checks", "not_a_server_error,response_schema_conformance,content_type_conformance"]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=float(seconds) + 60)
        print(ran.stdout)
        assert ran.returncode == 0, ran.stdout[-4000:]
        with urllib.request.urlopen(f"{url}/health/ready", timeout=30) as answer:
            assert answer.status == 200
