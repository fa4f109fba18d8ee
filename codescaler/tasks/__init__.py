"""Problems with their tests: files of strangers, in the shapes they are published in, to `types.Task` and back.

Knows formats; runs no test and no program, and unpickles nothing.
"""

from codescaler.tasks.own import task_record
from codescaler.tasks.reading import FORMATS, read_challenge_tasks, read_tasks

__all__ = ["FORMATS", "read_challenge_tasks", "read_tasks", "task_record"]
