"""The log of a run: a JSON line and TensorBoard scalars for each row, by the first process."""

from __future__ import annotations

import json
import os
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from ctr.run_folder import RunFolder


class RunLog:
    """Writes rows as they come; a resumed run drops the rows that it is about to repeat.

    Args:
        folder: of the run.
        enabled: whether this process writes.
        step: steps done so far; rows past it are dropped.
    """

    def __init__(self, folder: RunFolder, enabled: bool, step: int) -> None:
        self.enabled = enabled
        if not enabled:
            return
        _keep_until(folder, step)
        self.rows = folder.metrics.open("a")
        self.board = SummaryWriter(str(folder.tensorboard), purge_step=step + 1)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Add a row: `kind` is train, valid or summary."""
        if not self.enabled:
            return
        self.rows.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self.rows.flush()
        for name, value in values.items():
            self.board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Close the files."""
        if self.enabled:
            self.rows.close()
            self.board.close()


def _keep_until(folder: RunFolder, step: int) -> None:
    if not folder.metrics.exists():
        return
    rows = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    kept = [row for row in rows if row["step"] <= step and row["kind"] != "summary"]
    aside = folder.metrics.with_suffix(".tmp")
    aside.write_text("".join(json.dumps(row) + "\n" for row in kept))
    os.replace(aside, folder.metrics)
