"""The engines that a preparation may run on, by name."""

from __future__ import annotations

from datasets.errors import data_error
from datasets.partitions.engine import Engine, Inline, Pool
from datasets.partitions.ray_engine import RayEngine

ENGINES = ("local", "ray")


def open_engine(name: str, workers: int, address: str | None = None) -> Engine:
    """An engine by its name.

    Args:
        name: of `ENGINES`.
        workers: tasks that run at once; a single local one is this process.
        address: of a Ray cluster.

    Raises:
        DataError: Ray is asked for and not installed, or an address is given to the local engine.
    """
    if name == "ray":
        return RayEngine(workers, address)
    if address is not None:
        raise data_error("an address without Ray", "Add --engine ray", key="--address")
    return Inline() if workers == 1 else Pool(workers)
