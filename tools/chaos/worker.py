"""Runs a program that kills itself at a given moment, and notes which checkpoints it reads.

    python -m tools.chaos.worker NOTES KEY POINT PROGRAM [arguments]

NOTES is a folder, KEY names this start in it, POINT is a `tools.chaos.points.Point` as JSON or
"null", PROGRAM a script or a module. The program itself knows nothing of all this: functions are
wrapped before it starts. A point is used up once it has killed, so that a process that torchrun
starts again lives.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import itertools
import json
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before torch, which some of the wrapped functions belong to: see ctr/__init__.py.
import ctr  # noqa: F401
from tools.chaos.points import Point


def main() -> None:
    """Wrap what is to be wrapped, then run the program as if it had been started itself."""
    notes, key, point, program = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
    if program.endswith("train.py"):
        note_checkpoints(notes)
    asked = json.loads(point)
    mark = notes / f"killed-{key}"
    if asked is not None and not mark.exists():
        planned = Point(**asked)
        if planned.rank in (-1, int(os.environ.get("RANK", "0"))):
            plant(planned, mark)
    sys.argv = [program, *sys.argv[5:]]
    if program.endswith(".py"):
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)


def plant(point: Point, mark: Path) -> None:
    """Let the function of the point kill this process.

    Args:
        point: when; mark: file to leave behind.
    """

    def die() -> None:
        mark.write_text(point.as_json())
        if point.host:
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def die_soon() -> None:
        time.sleep(point.delay)
        die()

    calls = itertools.count(1)

    def around(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        texts = [str(a) for a in args if isinstance(a, str | Path)]
        counts = not point.argument or any(point.argument in text for text in texts)
        if not counts or next(calls) != point.call:
            return original(*args, **kwargs)
        if point.when == "half":
            write_half(*args)
        elif point.when == "during":
            threading.Thread(target=die_soon, daemon=True).start()
        if point.when in ("during", "after"):
            original(*args, **kwargs)
        die()

    wrap(point.function, around)


def wrap(function: str, around: Callable[..., Any]) -> None:
    """Replace `module:name` by `around`, which gets the original before its arguments."""
    owner, name = resolve(function)
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return around(original, *args, **kwargs)

    setattr(owner, name, wrapped)


def resolve(function: str) -> tuple[Any, str]:
    """The module or class of `module:name`, and the name in it.

    Raises:
        AttributeError: there is no such function.
    """
    module, _, path = function.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    if not hasattr(owner, name):
        raise AttributeError(f"{function}: no such function; tools.chaos.points is out of date")
    return owner, name


def write_half(target: Any, *rest: Any) -> None:
    """What a kill leaves of a line of a log, or of a file whose path and text are given."""
    if isinstance(target, Path):
        target.write_text(rest[0][: len(rest[0]) // 2])
        return
    target.rows.write('{"kind": "train", "step": 3, "samp')
    target.rows.flush()


def note_checkpoints(notes: Path) -> None:
    """Note the bytes of every checkpoint as it is written, and as it is loaded.

    The digests are taken here, so that a fault of the code that is tested cannot hide.
    """

    def complete(original: Callable[..., Any], aside: Path, *args: Any) -> Any:
        append(notes / "written.jsonl", {"step": args[1], "files": digests(aside)})
        return original(aside, *args)

    def load(original: Callable[..., Any], found: Any, *args: Any) -> Any:
        if os.environ.get("RANK", "0") == "0":
            step = int(found.path.name.removeprefix("step-"))
            append(notes / "loaded.jsonl", {"step": step, "files": digests(found.path)})
        return original(found, *args)

    wrap("ctr.checkpoint.folder:complete", complete)
    wrap("ctr.checkpoint:load", load)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the tensors' files and their index."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name != "progress.json"
    }


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a JSON line."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
