"""Problems with their tests: untrusted files, in the shapes they are published in, to `types.Task` and back.

Knows formats; runs no test and no program, and unpickles nothing.
"""

from codescaler.tasks.own import make_task_record
from codescaler.tasks.reading import FORMATS, read_challenge_tasks, read_tasks

__all__ = ["FORMATS", "make_task_record", "read_challenge_tasks", "read_tasks"]
