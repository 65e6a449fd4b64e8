"""Damaged checkpoints: the newest sound one is taken, or none; never another number.

Every third case forges the checksums as well: then only reading must stay orderly.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from ctr import checkpoint
from tests.fuzz.harness import CASES, Outcome, Runner, check
from tests.fuzz.judging import attempt, fresh, judge
from tests.fuzz.mutations import Random, damage, random_of
from tests.fuzz.trees import JSON_TEXTS, mutate_tree

STEPS = (10, 20)


def tensors(seed: int) -> dict[str, torch.Tensor]:
    """Tensors of every kind that a run saves."""
    random = torch.Generator().manual_seed(seed)
    return {
        "model.table": torch.randn(50, 8, generator=random),
        "model.half": torch.randn(7, generator=random).half(),
        "model.empty": torch.zeros(0, 4),
        "optimizer.step": torch.tensor(3.0 + seed),
        "random.0.cpu": torch.randint(0, 256, (64,), generator=random, dtype=torch.uint8),
    }


def forge(folder: Path) -> None:
    """Let progress.json agree with the files beside it."""
    file = folder / "progress.json"
    stored = json.loads(file.read_text())
    stored["files"] = {
        p.name: [p.stat().st_size, hashlib.sha256(p.read_bytes()).hexdigest()]
        for p in sorted(folder.iterdir())
        if p.is_file() and p != file
    }
    file.write_text(json.dumps(sealed(stored)))


def sealed(stored: dict[str, Any]) -> dict[str, Any]:
    """Progress with the checksum of its own."""
    rest = {key: value for key, value in stored.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True)
    return {**rest, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def change_progress(file: Path, index: int, random: Random) -> str:
    """Forge progress.json, or put a text in its place that attacks the reader."""
    if index % 6 == 0:
        text = JSON_TEXTS[index // 6 % len(JSON_TEXTS)]
        file.write_text(text)
        return f"the text {text[:30]}"
    tree, what = mutate_tree(json.loads(file.read_text()), index, random)
    file.write_text(json.dumps(sealed(tree)))
    return f"forged progress: {what}"


class KIND:
    """Two checkpoints of a run, of which the newer one is damaged."""

    def __init__(self, folder: Path) -> None:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        self.pristine, self.work = folder / "checkpoints", folder / "case"
        if not self.pristine.exists():
            for step in STEPS:
                writer = checkpoint.Writer(self.pristine, step, {"loader": {"epoch": step}}, 2)
                checkpoint.save(tensors(step), writer)
        self.warnings = 0
        logging.getLogger("ctr.checkpoint.folder").addFilter(self.count)
        self.untouched = self.read(self.pristine)

    def count(self, record: logging.LogRecord) -> bool:
        """Count the warnings of checkpoints that are passed over."""
        self.warnings += record.levelno == logging.WARNING
        return False

    def read(self, folder: Path) -> tuple[dict[str, Any], dict[str, list[Any]]]:
        """Progress and tensors of the newest sound checkpoint."""
        found = checkpoint.newest(folder)
        values = {name: torch.full_like(tensor, 7) for name, tensor in tensors(0).items()}
        checkpoint.load(found, values)
        return found.progress, {name: tensor.tolist() for name, tensor in values.items()}

    def case(self, index: int) -> Outcome:
        """Damage the newer checkpoint, or one time in four any file of either."""
        folder, random = fresh(self.pristine, self.work), random_of("checkpoint", index)
        newer, forged, self.warnings = folder / "step-000000020", index % 3 == 2, 0
        if index % 24 == 23:
            mutation = self.endless(newer)
        elif index % 6 == 5:
            mutation = change_progress(newer / "progress.json", index // 6, random)
        else:
            place = folder if index % 4 == 0 else newer
            files = sorted(p for p in place.rglob("*") if p.is_file())
            if forged:
                files = [p for p in files if p.parent == newer and p.name != "progress.json"]
            mutation = damage(newer if forged else folder, files, index // 3, random)
            if forged:
                # The swap of a file with progress.json leaves nothing to forge.
                word, _ = attempt(forge, newer)
                mutation += f", forged checksums: {word}"
        return self.judge(folder, mutation, forged)

    def endless(self, newer: Path) -> str:
        """Let the checksum of a file be asked for that never ends."""
        file = newer / "progress.json"
        stored = json.loads(file.read_text())
        stored["files"]["/dev/zero"] = [0, "0"]
        file.write_text(json.dumps(sealed(stored)))
        return "the checksum of /dev/zero"

    def judge(self, folder: Path, mutation: str, forged: bool) -> Outcome:
        """Whether what was read is one of the two checkpoints, and what is told of it."""
        found = attempt(self.read, folder)
        wrong = judge(mutation, found, [str(folder), "tensor"])
        if wrong is not None or found[1] == self.untouched:
            return wrong or Outcome("equal", mutation)
        older = {name: tensor.tolist() for name, tensor in tensors(STEPS[0]).items()}
        if found[1] == ({"loader": {"epoch": STEPS[0]}, "step": STEPS[0]}, older):
            # The folder without its last file was never complete: it is no checkpoint.
            gone = not (folder / "step-000000020" / "progress.json").is_file()
            return Outcome("warning" if self.warnings or gone else "silently older", mutation)
        return Outcome("other" if forged else "unnoticed", mutation, str(found[1])[:500])


@pytest.mark.parametrize("index", range(CASES))
def test_damage(index: int, runner: Runner, request: pytest.FixtureRequest) -> None:
    check(runner, index, request)
