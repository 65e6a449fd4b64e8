"""The one error that preparation raises for bad input."""

from __future__ import annotations

from remote.path import Location


class DataError(ValueError):
    """Input or a store is not as it has to be; the message says where, what, and what to do."""


def data_error(
    problem: str,
    advice: str,
    *,
    file: Location | str | None = None,
    column: str | None = None,
    row: int | None = None,
    key: object = None,
) -> DataError:
    """Build a `DataError` whose message names the place before the problem.

    Args:
        problem: what is wrong.
        advice: what the user can do about it.
        file: file or folder it was found in.
        column: column as the file names it.
        row: row of that file, counted from 0.
        key: raw id or other key of the row.
    """
    place = [str(file)] if file is not None else []
    if column is not None:
        place.append(f"column '{column}'")
    if row is not None:
        place.append(f"row {row}")
    if key is not None:
        place.append(f"key {key}")
    where = ", ".join(place) + ": " if place else ""
    return DataError(f"{where}{problem}. {advice}")
