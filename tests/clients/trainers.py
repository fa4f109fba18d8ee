"""What the tests of trainers share: a server that is ended and replaced under load, and the shaped reward."""

import asyncio
import math
import os
import re
import signal
import subprocess
import threading

from conftest import OPTIONS, PYTHON

MOST_AT_ONCE = 8
# Has imported all that a server needs when it is told to serve: a restart is the time to load a model, as on a machine
# that does nothing else.
STANDBY = """
import sys
from codescaler import cli
import codescaler.serve.app, codescaler.serve.server
codescaler.serve.app.Engine.from_pretrained(sys.argv[1]).score([("a", "b")])
print("ready", flush=True)
sys.stdin.readline()
sys.exit(cli.main(["serve", *sys.argv[1:]]))
"""


def shape(score):
    """The reward of a valid program."""
    return max(score, 0.0) + math.log1p(math.exp(-abs(score)))


class Standby:
    """A process that is about to be `codescaler serve`."""

    def __init__(self, folder, port):
        arguments = [folder, "--port", str(port), *OPTIONS]
        self.process = subprocess.Popen(
            [PYTHON, "-P", "-c", STANDBY, *arguments],
            env=os.environ | {"CODESCALER_API_KEY": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait(self):
        """Returns when the process has imported everything."""
        assert self.process.stdout.readline() == "ready\n"

    def serve(self):
        """Starts the server and returns its URL."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        for line in self.process.stderr:
            if found := re.search(r" on (http://\S+)$", line):
                threading.Thread(target=self.process.stderr.read, daemon=True).start()
                return found[1]
        raise AssertionError("the server ended")

    def end(self, number=signal.SIGKILL):
        """Sends a signal and returns the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(60)
        for pipe in (self.process.stdin, self.process.stdout):
            pipe.close()
        return code


class Replacement:
    """A server, and another one that takes its port when it has ended. `has_ended` is set in between."""

    def __init__(self, folder, number):
        self._first = Standby(folder, 0)
        self._first.wait()
        self._number = number
        self._thread = threading.Thread(target=self._replace)
        self.has_ended = threading.Event()
        self.url = self._first.serve()
        self._second = Standby(folder, self.url.rpartition(":")[2])
        self._second.wait()

    def start(self):
        """Sends the signal to the first server, and returns at once."""
        self._thread.start()

    def _replace(self):
        self.code = self._first.end(self._number)
        self.has_ended.set()
        self._second.serve()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._thread.ident is None:  # the test failed before
            self._first.end()
        else:
            self._thread.join()
        self._second.end()


async def score_during(replacement, score, num_samples):
    """Returns what `score(index)` gives for samples, several at a time, while the server is replaced.

    A third are scored before the signal and while the first server ends. The others find no server, or the second.
    """
    room, num_scored = asyncio.Semaphore(MOST_AT_ONCE), 0

    async def score_sample(index):
        nonlocal num_scored
        async with room:
            if index >= num_samples // 3:
                await asyncio.to_thread(replacement.has_ended.wait, 60)
            result = await score(index)
            num_scored += 1
            if num_scored == num_samples // 6:
                replacement.start()
            return result

    return await asyncio.gather(*map(score_sample, range(num_samples)))
