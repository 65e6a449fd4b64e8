"""The files of a report: written aside, then renamed, all or none."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from tools.report.drawing import Plot
from tools.report.errors import ReportError

# What a report's plots are called.
_OURS = re.compile(
    r"(loss|speed|validation_\w+|calibration|scores_\d_[-\w]*|slice_\w+|search_\w+)\.png"
)


def check_writable(out: Path, folder: Path | None) -> None:
    """Raise ReportError, before any work is done, where the files could not be put.

    Args:
        out: the page; folder: of the plots' PNGs, which must be new, or hold those of a report and
            nothing else.
    """
    if out.is_dir():
        raise ReportError(f"{out}: is a folder; give --out the name of a file")
    if folder is None:
        return
    if folder.exists() and not folder.is_dir():
        raise ReportError(f"{folder}: is a file; give --png another folder")
    inside = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    others = [name for name in inside if not _OURS.fullmatch(name)]
    if others:
        raise ReportError(
            f"{folder}: holds {others[0]!r} and would be replaced as a whole; give --png a folder "
            "of its own"
        )


def write(page: str, out: Path, plots: Sequence[Plot], folder: Path | None) -> None:
    """Write the page, and a PNG of each plot into the folder, whose files are replaced.

    Raises:
        ReportError: something cannot be written.
    """
    aside = out.with_name(f"{out.name}.tmp-{os.getpid()}")
    aside_folder = None if folder is None else folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(page, encoding="utf-8")
        if folder is not None and aside_folder is not None:
            aside_folder.mkdir(parents=True)
            for plot in plots:
                (aside_folder / f"{plot.name}.png").write_bytes(plot.png)
            if folder.is_dir():
                shutil.rmtree(folder)
            aside_folder.replace(folder)
        aside.replace(out)
    except OSError as error:
        raise ReportError(f"{out}: cannot be written ({error})") from None
    finally:
        aside.unlink(missing_ok=True)
        if aside_folder is not None:
            shutil.rmtree(aside_folder, ignore_errors=True)
