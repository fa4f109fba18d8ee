"""`run_tasks`: tasks on a Ray cluster, each by a worker that opens a model once. Workers that die are replaced.

It knows no models and no files. A task is a text, and its result is a number. Ray Data's own checkpoints are not used.
A task that was cut off runs again, and goes on by itself where it can.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from codescaler.errors import BackendUnavailable, CodescalerError

MAX_TASK_DEATHS = 4  # of workers in one task: a task that kills each worker would do so for ever

RunTask = Callable[[str], int]


def run_tasks(
    tasks: Sequence[str],
    open_worker: Callable[[], RunTask],
    *,
    num_workers: int | None = None,
    num_cpus: int = 1,
    wants_gpu: bool | None = None,
) -> Iterator[tuple[str, int]]:
    """Yields each task with its result, as they end.

    Args:
        tasks: each is given to one worker. After the death of a worker it is given to another.
        open_worker: called once in each worker, it returns what runs a task there.
        num_workers: None means as many as there is room for on the cluster now.
        num_cpus: of a worker.
        wants_gpu: whether a worker gets a GPU. None means if the cluster has GPUs.

    Raises:
        BackendUnavailable: Ray is not here, or the cluster has no room. CodescalerError: a task raised it.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BackendUnavailable(f"Ray is not here ({error}); pip install 'codescaler[ray]'") from error
    if not ray.is_initialized():
        ray.init()  # the cluster of RAY_ADDRESS or of this machine, and if there is none, one of our own
    resources = ray.cluster_resources()
    num_gpus = int(bool(resources.get("GPU")) if wants_gpu is None else wants_gpu)
    room = int(resources.get("GPU", 0)) if num_gpus else int(resources.get("CPU", 0)) // num_cpus
    if not room:
        raise BackendUnavailable(f"the cluster has {resources}; a worker needs {num_cpus} CPUs and {num_gpus} GPUs")
    results = ray.data.from_items([{"task": task} for task in tasks], override_num_blocks=len(tasks)).map(
        _Worker,
        fn_constructor_args=(open_worker,),
        compute=ray.data.ActorPoolStrategy(
            size=min(num_workers or room, len(tasks)),
            max_tasks_in_flight_per_actor=1,  # a task takes minutes: none should wait behind another
        ),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        max_restarts=-1,
        max_task_retries=MAX_TASK_DEATHS,
    )
    try:
        for row in results.iter_rows():
            yield row["task"], row["result"]
    except Exception as error:
        cause = _find_cause(error)
        if cause is None:
            raise
        raise cause from error


class _Worker:
    """One actor of the pool."""

    def __init__(self, open_worker: Callable[[], RunTask]) -> None:
        self._run = open_worker()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return row | {"result": self._run(row["task"])}


def _find_cause(error: BaseException | None) -> CodescalerError | None:
    """The error of ours that Ray has wrapped, None if there is none."""
    while error is not None and not isinstance(error, CodescalerError):
        error = getattr(error, "cause", None) or error.__cause__
    return error
