"""Where `tools.chaos` kills: functions of this code and of torch, by name and number of the call.

The calls named are those of the runs that `tools.chaos` makes: 16 steps with a validation after the
8th and the 16th, and checkpoints after steps 3, 6, 8, 9, 12, 15 and 16.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass

STEPS = 16


@dataclass(frozen=True)
class Point:
    """A moment of one process.

    Attributes:
        stage: what the process is doing then.
        function: `module:name`, the name of a method with its class.
        when: before or after a call; during it, `delay` seconds after its start or at its end,
            whichever comes first; half, where half of a text is in its file.
        call: which call, counted from 1 in that process.
        rank: of the process; -1 for any.
        argument: if not empty, only calls count that have a path or a text with this in it.
        delay: seconds.
        host: kill the process above, too, torchrun's: nobody notices, as where a host is lost.
    """

    stage: str
    function: str
    when: str
    call: int = 1
    rank: int = 0
    argument: str = ""
    delay: float = 0.0
    host: bool = False

    def as_json(self) -> str:
        """For a command line."""
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        name = self.function.partition(":")[2]
        return f"{self.when} {name}, call {self.call} of rank {self.rank}"


@dataclass(frozen=True)
class Place:
    """A function and the calls of it at which a run can be killed.

    Attributes:
        whens: as in Point; calls: first and last; argument: as in Point.
        any_rank: every process calls it, not only the first.
    """

    function: str
    whens: tuple[str, ...]
    calls: tuple[int, int]
    any_rank: bool = True
    argument: str = ""


_AROUND = ("before", "after")
_ALL = ("before", "during", "after")

# The folder that is written is `step-<n>.tmp`; the first removal of an old one is at the third.
_CHECKPOINT = (
    Place("torch.distributed.checkpoint:async_save", _ALL, (1, 7)),
    Place("torch.distributed.checkpoint:FileSystemWriter.write_data", _ALL, (1, 7)),
    Place("torch.distributed.checkpoint.filesystem:_write_item", _AROUND, (2, 60), any_rank=False),
    Place("torch.distributed.checkpoint:FileSystemWriter.finish", _ALL, (1, 7), any_rank=False),
    Place("ctr.checkpoint.folder:complete", _AROUND, (1, 7), any_rank=False),
    Place("ctr.checkpoint.folder:_write_synced", ("half", "after"), (1, 7), any_rank=False),
    Place("os:replace", _AROUND, (1, 7), any_rank=False, argument="/step-"),
    Place("ctr.checkpoint.folder:_sync_folder", _AROUND, (1, 14), any_rank=False),
    Place("ctr.checkpoint.folder:prune", _AROUND, (1, 7), any_rank=False),
    Place("pathlib:Path.unlink", _AROUND, (1, 4), any_rank=False, argument="/progress.json"),
    Place("os:unlink", ("after",), (1, 4), any_rank=False, argument=".distcp"),
)

STAGES: dict[str, tuple[Place, ...]] = {
    "start": (
        Place("ctr.sharding:shard", _AROUND, (1, 1)),
        Place("ctr.run_folder:RunFolder.write_config", _AROUND, (1, 1), any_rank=False),
    ),
    "loading": (Place("ctr.data.loader:BatchBuilder.build", _ALL, (1, STEPS)),),
    "forward": (Place("torchrec.distributed:DistributedModelParallel.forward", _ALL, (1, STEPS)),),
    "backward": (Place("torch:Tensor.backward", _ALL, (1, STEPS)),),
    "optimizer": (Place("torch.optim:AdamW.step", _ALL, (1, STEPS)),),
    "checkpoint": _CHECKPOINT,
    "validation": (
        Place("ctr.inference:predict", _ALL, (1, 2)),
        Place("ctr.validation:Validation.run", _AROUND, (1, 2)),
    ),
    "logs": (
        Place("ctr.run_log:RunLog.write", ("half", "after"), (1, 14), any_rank=False),
        Place("ctr.run_log:SampleLog.write", ("half", "after"), (1, STEPS)),
    ),
    "any time": (Place("ctr.trainer:Trainer.train", ("during",), (1, 1)),),
}

# Of a run that goes on, by the function that makes it one.
RESUMING = (
    Place("ctr.checkpoint:load", _ALL, (1, 1)),
    Place("ctr.run_log:_drop_rows", _AROUND, (1, 1)),
    Place("torch:Tensor.backward", _ALL, (1, 2)),
    Place("ctr.checkpoint.folder:complete", _AROUND, (1, 1), any_rank=False),
)

# Of a preparation; where no function is named, at any time.
PREPARING = (
    Place("datasets.taobao_mm:prepare_tree", ("during",), (1, 1)),
    Place("datasets.store:StoreWriter.describe_split", _AROUND, (1, 2)),
    Place("datasets.store:StoreWriter.finish", _ALL, (1, 1)),
    Place("datasets.store:file_digest", _AROUND, (1, 12)),
    Place("datasets.store:sync", _AROUND, (1, 20)),
    Place("datasets.store:StoreWriter._move_into_place", _AROUND, (1, 1)),
)


def choose(
    stage: str,
    places: tuple[Place, ...],
    processes: int,
    chance: random.Random,
    calls: tuple[int, int] = (1, STEPS),
    longest: float = 0.02,
) -> Point:
    """A random point.

    Args:
        stage: its name; places: to choose from.
        processes: of the run.
        chance: the random generator.
        calls: bounds of the call, within those of the place.
        longest: seconds of the longest delay into a call.
    """
    place = chance.choice(places)
    low, high = max(place.calls[0], calls[0]), min(place.calls[1], calls[1])
    when = chance.choice(place.whens)
    return Point(
        stage,
        place.function,
        when,
        call=chance.randint(min(low, high), high),
        rank=chance.randrange(processes) if place.any_rank else 0,
        argument=place.argument,
        delay=chance.uniform(0.0, longest) if when == "during" else 0.0,
    )
