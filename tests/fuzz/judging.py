"""What a reader of damaged files came to."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ctr.errors import UserError
from datasets.errors import DataError
from tests.fuzz.harness import Outcome

NAMED = (UserError, DataError)


def attempt(action: Any, *arguments: Any) -> tuple[str, Any]:
    """`ok` and the result, `error` and the message, or `exception` and what came through."""
    try:
        return "ok", action(*arguments)
    except NAMED as error:
        return "error", str(error)
    except BaseException as error:  # polars panics with one that is no Exception
        return "exception", f"{type(error).__name__}: {error}"


def judge(mutation: str, found: tuple[str, Any], places: list[str]) -> Outcome | None:
    """The outcome where there is no result: a named error if its message names a place."""
    word, message = found
    if word == "ok":
        return None
    if word == "error" and not any(place in message for place in places):
        return Outcome("error without a place", mutation, message)
    return Outcome(word, mutation, message)


def fresh(pristine: Path, work: Path) -> Path:
    """A copy to damage in place of the one before."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(pristine, work)
    return work


def content(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder."""
    paths = folder.rglob("*")
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in paths}
