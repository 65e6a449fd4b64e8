"""Ray: the steps of a preparation on the machines of a cluster that share a folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm

from datasets.errors import data_error
from datasets.partitions.engine import ONE_THREAD, Result, Task, died, run_task

# A task that lost its worker is pure, so it may simply run again.
_TRIES_AGAIN = 2


class RayEngine:
    """Runs tasks on Ray.

    Args:
        workers: tasks that run at once.
        address: of a cluster, as `ray.init` takes it; by default one is started on this machine.

    Raises:
        DataError: Ray is not installed.
    """

    def __init__(self, workers: int, address: str | None = None) -> None:
        try:
            import ray  # type: ignore[import-not-found,unused-ignore]  # optional
        except ImportError:
            advice = "Install it with pip install 'lifelong-ctr[ray]', or take --engine local"
            raise data_error("Ray is not installed", advice, key="--engine") from None
        self._ray: Any = ray
        self._workers = workers
        self._address = address

    def __enter__(self) -> RayEngine:
        options: dict[str, Any] = {"address": self._address}
        if self._address is None:
            # Results are small: the object store need not be a third of the machine's memory.
            options = {"num_cpus": self._workers, "object_store_memory": 80_000_000}
            options["include_dashboard"] = False
        options["runtime_env"] = {"env_vars": ONE_THREAD}
        self._ray.init(log_to_driver=False, logging_level=logging.WARNING, **options)
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()

    def map(
        self, step: str, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> list[Result]:
        """See `datasets.partitions.engine.Engine.map`."""
        ray = self._ray
        remote = ray.remote(num_cpus=1, max_retries=_TRIES_AGAIN)(run_task)
        shared = ray.put(function)
        places: dict[Any, int] = {}
        results: dict[int, Result] = {}
        failed: dict[int, Exception] = {}
        waiting = list(enumerate(tasks))[::-1]
        with tqdm(total=len(tasks), desc=step, disable=None) as bar:
            while places or (waiting and not failed):
                while waiting and not failed and len(places) < self._workers:
                    place, task = waiting.pop()
                    places[remote.remote(shared, task)] = place
                for reference in ray.wait(list(places))[0]:
                    place = places.pop(reference)
                    try:
                        results[place] = ray.get(reference)
                    except ray.exceptions.RayTaskError as error:
                        failed[place] = error.cause
                    except ray.exceptions.RayError as error:
                        how = f"was lost ({str(error).splitlines()[0]})"
                        failed[place] = died(step, place, len(tasks), how)
                    bar.update()
        if failed:
            raise failed[min(failed)]
        return [results[place] for place in range(len(tasks))]
