"""What a program may use."""

from dataclasses import dataclass, replace

from codescaler.errors import InvalidInput


@dataclass(frozen=True)
class Limits:
    """What a program may use. Call tests share one process. Stdio tests use one process each.

    Attributes:
        cpu_seconds: whole seconds of CPU time of each process, which a busy machine does not make shorter.
        wall_seconds: of a process and all that it starts; for what waits instead of computing.
        memory_bytes: address space of each process. num_processes: processes and threads at a time.
        output_bytes: of each file and of standard output. scratch_bytes: of all files together, which are in memory.
    """

    cpu_seconds: int = 5
    wall_seconds: float = 20.0
    memory_bytes: int = 1 << 30
    num_processes: int = 8
    output_bytes: int = 1 << 20
    scratch_bytes: int = 16 << 20

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, (int, float)) or value <= 0 or (name != "wall_seconds" and value != int(value)):
                raise InvalidInput(f"{name} is {value!r}; give a number above 0, of whole units but for wall_seconds")

    def extend(self, cpu_seconds: int | None) -> "Limits":
        """Returns limits with at least the time that tests give a program, None for no time of their own."""
        if cpu_seconds is None or cpu_seconds <= self.cpu_seconds:
            return self
        return replace(self, cpu_seconds=cpu_seconds, wall_seconds=max(self.wall_seconds, 2.0 * cpu_seconds))
