"""Predictions as sortable integers, and the ties of sorted ones: all metrics are made of these.

A probability is never negative, so the bits of its float rise with it, read as an unsigned integer.
`key = (bits of 1.0 - bits of the score) * 2 + label` is such an integer: sorting keys puts high
scores first, keeps the score exactly and carries the label along, in 4 bytes a row for float32.

Shape legend: S rows (samples), T ties (distinct scores among sorted rows).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ctr.errors import UserError

Array = np.ndarray

# Rows that are looked at together: temporaries of 8 bytes a row stay near 16 MiB each.
BLOCK_ROWS = 1 << 21

_UNSIGNED = {np.dtype(np.float32): np.uint32, np.dtype(np.float64): np.uint64}
_FLOAT: dict[np.dtype, type] = {
    np.dtype(np.uint32): np.float32,
    np.dtype(np.uint64): np.float64,
}


class PredictionError(UserError):
    """Predictions that no metric is defined for; names the row."""


@dataclass(frozen=True)
class Ties:
    """Rows of equal key but for the label, keys rising.

    Attributes:
        value: unsigned [T], key without its label.
        clicks, others: int64 [T], rows with label 1 and 0.
    """

    value: Array
    clicks: Array
    others: Array


def score_keys(
    label: Array,
    score: Array,
    label_name: str = "label",
    score_name: str = "score",
    first_row: int = 0,
) -> Array:
    """Key of each row: uint32 [S] of float32 scores, uint64 [S] of any other.

    Args:
        label: [S], 0 or 1 in any numeric type or bool.
        score: [S], probabilities.
        label_name, score_name: for errors; first_row: number of the first row, for errors.

    Raises:
        PredictionError: a label other than 0 and 1, or a score outside [0, 1].
    """
    wrong = ~((label == 0) | (label == 1))
    if wrong.any():
        row = int(wrong.argmax())
        raise PredictionError(
            f"{label_name}: values other than 0 and 1: row {first_row + row} is {label[row]}"
        )
    wrong = ~((score >= 0) & (score <= 1))
    if wrong.any():
        row = int(wrong.argmax())
        raise PredictionError(
            f"{score_name}: row {first_row + row} is {score[row]}, must be a probability; "
            "did training diverge?"
        )
    if score.dtype != np.float32:
        score = score.astype(np.float64)
    # Adding 0 turns -0.0, whose bits are not those of 0.0, into 0.0.
    score = score + score.dtype.type(0)
    unsigned = _UNSIGNED[score.dtype]
    bits = score.view(unsigned)
    return ((_bits_of_one(unsigned) - bits) << unsigned(1)) | label.astype(unsigned)


def scores_of(value: Array) -> Array:
    """The scores, float64 [T], of values of ties whose keys came from `score_keys`."""
    bits = _bits_of_one(value.dtype.type) - value
    return bits.view(_FLOAT[value.dtype]).astype(np.float64)


def _bits_of_one(unsigned: type) -> np.unsignedinteger:
    return _FLOAT[np.dtype(unsigned)](1.0).view(unsigned)


def tie_blocks(keys: Array, block_rows: int = BLOCK_ROWS) -> Iterator[Ties]:
    """The ties of sorted keys, in order, each whole, in blocks of about so many rows.

    Args:
        keys: unsigned [S], rising; the lowest bit is the label.
        block_rows: at most so many rows a block, but for a tie that is longer.
    """
    one, begin = keys.dtype.type(1), 0
    while begin < len(keys):
        end = min(begin + block_rows, len(keys))
        value = keys[end - 1] >> one
        tie_begin = begin + int(np.searchsorted(keys[begin:end], value << one))
        tie_end = begin + int(np.searchsorted(keys[begin:], (value << one) | one, side="right"))
        if tie_end <= end:
            yield _ties(keys[begin:end])
        elif tie_begin > begin:
            end = tie_begin
            yield _ties(keys[begin:end])
        else:
            # Counted without looking at its rows: labels are sorted within a tie.
            end = tie_end
            tie = keys[begin:end]
            others = int(np.searchsorted(tie, (value << one) | one))
            yield Ties(np.array([value]), np.array([len(tie) - others]), np.array([others]))
        begin = end


def _ties(keys: Array) -> Ties:
    one = keys.dtype.type(1)
    value = keys >> one
    new = np.empty(len(value), dtype=bool)
    new[:1] = True
    np.not_equal(value[1:], value[:-1], out=new[1:])
    start = np.flatnonzero(new)
    clicks = np.add.reduceat((keys & one).astype(np.int64), start)
    rows = np.diff(start, append=len(keys))
    return Ties(value[start], clicks, rows - clicks)
