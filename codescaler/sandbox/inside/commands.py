"""Compiles a program of another language than Python, and runs it, once a process, by commands.

What was compiled travels as one file that the host does not look into. The compiler and the program see what the box
shows, and have the limits of their roles.
"""

import marshal
import os
import resource
import signal
import socket
import subprocess
from pathlib import Path
from typing import NoReturn

from codescaler.sandbox.inside.wire import receive

_FOLDER = "program"  # with all that belongs to the program
_CANNOT_RUN = 126


def compile_program(work: socket.socket, packed: int, said: int) -> None:
    """Packs what the compiler makes of a text, or ends as the compiler did. What it says goes to `said`."""
    task = receive(work)
    work.close()
    os.mkdir(_FOLDER)
    Path(_FOLDER, task["source"]).write_bytes(task["text"].encode("utf-8", "surrogatepass"))
    if task["command"]:
        environment = os.environ | task["environment"]
        done = subprocess.run(task["command"], cwd=_FOLDER, stdout=said, stderr=said, env=environment, check=False)
        if done.returncode:
            os._exit(1)
    files = [path for path in Path(_FOLDER).rglob("*") if path.is_file()]
    with open(packed, "wb", closefd=False) as file:
        file.write(marshal.dumps({str(path): path.read_bytes() for path in files}))


def execute(work: socket.socket, packed: int, stdin: int, stdout: int, stderr: int) -> NoReturn:
    """Becomes the program that was compiled, with these files for its streams."""
    task = receive(work)
    os.environ.update(task["environment"])
    for number, file in enumerate((stdin, stdout, stderr)):
        os.dup2(file, number)
    try:
        for name, data in marshal.loads(os.pread(packed, os.fstat(packed).st_size, 0)).items():
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            path.chmod(0o755)
        if task["input_file"]:
            Path(task["input_file"]).write_bytes(os.pread(0, os.fstat(0).st_size, 0))
        os.closerange(3, 64)
        resource.setrlimit(resource.RLIMIT_FSIZE, (task["output_bytes"], task["output_bytes"]))
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):  # Python has its own ways with them
            signal.signal(number, signal.SIG_DFL)
        if task["output_file"]:
            _print_file(task["command"], task["output_file"])
        os.execv(task["command"][0], task["command"])
    except (OSError, ValueError, MemoryError) as error:
        os.write(2, f"the program cannot be started: {error}".encode())
    os._exit(_CANNOT_RUN)


def _print_file(command: list[str], name: str) -> NoReturn:
    """Runs the program, and prints the file that it wrote in place of standard output."""
    pid = os.posix_spawn(command[0], command, os.environ)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if os.path.exists(name):
        os.write(1, Path(name).read_bytes())
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)
