"""Scores on their way to a file: finished parts that a killed run leaves, and how they are joined.

A part is `part-<n>.npy`, its scores, and `part-<n>.json`, written last: of which request it is,
what was unknown in it, and a digest of both. Opening a part runs no code.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctr.data.samples import Samples
from ctr.data.store import Array
from ctr.errors import UserError

_log = logging.getLogger(__name__)


class ScoresError(UserError):
    """Scores that are not finite or cannot be written; says where and what to do."""


class ScoreParts:
    """Finished parts of one request's scores, in a folder of their own.

    Args:
        folder: where they are, or will be.
        request: JSON values of all that the scores depend on; parts of another one are not used.
    """

    def __init__(self, folder: Path, request: dict[str, Any]) -> None:
        self.folder = folder
        # As JSON gives it back.
        self.request: dict[str, Any] = json.loads(json.dumps(request))
        self._unknown: dict[int, dict[str, int]] = {}

    def open(self) -> list[int]:
        """Numbers of the parts that are finished; others are removed, with a warning.

        Raises:
            ScoresError: the folder cannot be written.
        """
        reasons: Counter[str] = Counter()
        try:
            for file in sorted(self.folder.glob("part-*.json")):
                number = int(file.stem.removeprefix("part-"))
                reason = self._why_unusable(number)
                if reason is not None:
                    reasons[reason] += 1
                    file.unlink()
            kept = {self._scores(number) for number in self._unknown}
            for file in [*self.folder.glob("part-*.npy"), *self.folder.glob("*.tmp")]:
                if file not in kept:
                    file.unlink()
        except (OSError, ValueError) as error:
            raise ScoresError(f"{self.folder}: cannot be used ({error}); remove it") from None
        for reason, count in reasons.items():
            _log.warning("%s: %d parts %s; they are scored again", self.folder, count, reason)
        return sorted(self._unknown)

    def write(self, number: int, scores: Array, unknown: dict[str, int]) -> None:
        """Keep a finished part.

        Args:
            number: of the part; scores: float32 [n], in the order of the samples; unknown: samples
                with an id outside the vocabulary, by what it is the id of.

        Raises:
            ScoresError: it cannot be written.
        """
        seal = {"part": number, "request": self.request, "unknown": unknown}
        text = json.dumps({**seal, "digest": _digest(seal, scores)})
        try:
            self.folder.mkdir(exist_ok=True)
            aside = self.folder / "scores.tmp"
            with aside.open("wb") as file:
                np.save(file, scores)
            aside.replace(self._scores(number))
            aside = self.folder / "seal.tmp"
            aside.write_text(text)
            aside.replace(self._seal(number))
        except OSError as error:
            raise ScoresError(
                f"{self.folder}: part {number} cannot be written ({error}); the same command goes "
                "on"
            ) from None
        self._unknown[number] = unknown

    def scores(self) -> Iterator[Array]:
        """Scores of all parts, in order: float32 [n] each."""
        for number in sorted(self._unknown):
            yield np.load(self._scores(number), allow_pickle=False)

    def unknown(self) -> Counter[str]:
        """Samples of all parts with an id outside the vocabulary, by what it is the id of."""
        total: Counter[str] = Counter()
        for unknown in self._unknown.values():
            total.update(unknown)
        return total

    def remove(self) -> None:
        """Remove all parts, and the folder unless something else is in it."""
        for number in self._unknown:
            self._seal(number).unlink(missing_ok=True)
            self._scores(number).unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _scores(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.npy"

    def _seal(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.json"

    def _why_unusable(self, number: int) -> str | None:
        """Take a part in, or say why not."""
        try:
            seal = json.loads(self._seal(number).read_text())
            theirs = seal["request"]
            keys = sorted(self.request.keys() | theirs.keys())
            differing = [key for key in keys if theirs.get(key) != self.request.get(key)]
            if differing:
                return f"are of another {', '.join(differing)}"
            scores = np.load(self._scores(number), allow_pickle=False)
            digest = seal.pop("digest")
            if seal["part"] != number or digest != _digest(seal, scores):
                return "are damaged"
            self._unknown[number] = seal["unknown"]
        except Exception:  # a damaged file raises almost anything
            return "are damaged"
        return None


def write_scored(out: Path, samples: Samples, parts: ScoreParts, column: str) -> None:
    """Write the samples' own columns and their scores, aside and renamed.

    Args:
        out: Parquet file; replaced where it is there.
        samples: that were scored; parts: all of their scores; column: name of the scores'.

    Raises:
        ScoresError: the file cannot be written.
    """
    aside = out.with_name(f"{out.name}.tmp")
    schema = samples.schema.append(pa.field(column, pa.float32()))
    scores = _Joined(parts.scores())
    try:
        with pq.ParquetWriter(aside, schema) as writer:
            for table in samples.tables():
                found = pa.array(scores.take(table.num_rows))
                writer.write_table(table.append_column(schema.field(column), found))
        os.replace(aside, out)
    except OSError as error:
        raise ScoresError(f"{out}: cannot be written ({error}); the same command goes on") from None
    finally:
        aside.unlink(missing_ok=True)


class _Joined:
    """Takes as many numbers as are asked for from arrays that follow each other."""

    def __init__(self, arrays: Iterator[Array]) -> None:
        self.arrays = arrays
        self.rest = np.zeros(0, dtype=np.float32)

    def take(self, rows: int) -> Array:
        pieces = []
        while rows:
            if not len(self.rest):
                self.rest = next(self.arrays)
            piece, self.rest = self.rest[:rows], self.rest[rows:]
            pieces.append(piece)
            rows -= len(piece)
        return np.concatenate(pieces) if pieces else self.rest[:0]


def _digest(seal: dict[str, Any], scores: Array) -> str:
    digest = hashlib.blake2b(json.dumps(seal, sort_keys=True).encode(), digest_size=16)
    digest.update(scores.tobytes())
    return digest.hexdigest()
