"""Score samples by a trained run: `python ctr/predict.py run=<folder> samples=<split or .parquet>`.

Under torchrun, all processes share the work. A run that was killed goes on by the same command.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from omegaconf import DictConfig
from tqdm import tqdm

from ctr.assemble import make_loader
from ctr.checkpoint import Checkpoint
from ctr.command import errors_to_exit
from ctr.config import RunConfig, parse_as
from ctr.config.checks import require, require_one_of
from ctr.data.raw_samples import RawColumns, RawSamples
from ctr.data.samples import Part, Samples, StoredSamples
from ctr.data.store import Store
from ctr.distributed import Process, from_first, process_group
from ctr.inference import chosen_checkpoint, load_model, open_store, predict, reading_config
from ctr.model.head import fold
from ctr.run_folder import RunFolder
from ctr.score_parts import ScoreParts, ScoresError, write_scored

_log = logging.getLogger(__name__)


@dataclass
class PredictConfig:
    """What to score, by which run.

    Attributes:
        run: folder of a training run.
        samples: a split of the run's store, with labels or without, or a file that ends in
            .parquet with a row of raw ids for each sample; null for the configured test split.
        out: Parquet file; null for scores_<samples>.parquet in the run's folder.
        checkpoint: newest, or best (of a run with trainer.keep_best).
        store: of the run's data, where it moved; null for where it was.
        batch_size: samples a process and step; null for the run's.
        device: auto, cpu or cuda.
        progress: show a progress bar.
        user_column, item_column: of raw ids, in a file.
        history_end_column: events that a row may see of its user's history; null for all of them.
        sample_columns: columns of raw values, by the sample feature that they are, such as
            {likes_level: likes}; null for none.
        score_column: name of the scores in the output.
        part_rows: samples of a part; a killed run loses the part that it was at.
    """

    run: str = "runs/latest"
    samples: str | None = None
    out: str | None = None
    checkpoint: str = "newest"
    store: str | None = None
    batch_size: int | None = None
    device: str = "auto"
    progress: bool = True
    user_column: str = "user"
    item_column: str = "item"
    history_end_column: str | None = None
    sample_columns: dict[str, str] | None = None
    score_column: str = "score"
    part_rows: int = 1_000_000

    def validate(self) -> None:
        """Raise ConfigError on a value that cannot run."""
        require_one_of("checkpoint", self.checkpoint, ("newest", "best"))
        require(self.part_rows >= 1, "part_rows", self.part_rows, "set at least 1")


def open_samples(wanted: PredictConfig, config: RunConfig, store: Store) -> Samples:
    """What is to be scored.

    Raises:
        StoreError: no such split.
        SamplesError: a file that cannot be read, or lacks a column.
        ConfigError: it has a column of the scores' name already.
    """
    name = wanted.samples or config.data.test_split
    samples: Samples
    if name.endswith(".parquet"):
        columns = RawColumns(
            wanted.user_column,
            wanted.item_column,
            wanted.history_end_column,
            wanted.sample_columns or {},
        )
        samples = RawSamples(Path(name), columns, store)
    else:
        samples = StoredSamples(store, name)
    require(
        wanted.score_column not in samples.schema.names,
        "score_column",
        wanted.score_column,
        f"samples={name} has such a column; set another name",
    )
    return samples


def output_file(wanted: PredictConfig, config: RunConfig, folder: RunFolder) -> Path:
    """Where the scores go.

    Raises:
        ConfigError: it is a folder, in none, or the file of the samples itself.
    """
    samples = wanted.samples or config.data.test_split
    name = Path(samples).stem if samples.endswith(".parquet") else samples
    out = Path(wanted.out) if wanted.out else folder.scores(name)
    require(not out.is_dir(), "out", out, "is a folder; set a file that ends in .parquet")
    require(out.parent.is_dir(), "out", out, "no such folder; make it, or set another file")
    require(out.resolve() != Path(samples).resolve(), "out", out, "is samples=; set another file")
    return out


def request_of(
    samples: Samples, taken: Checkpoint, store: Store, config: RunConfig, wanted: PredictConfig
) -> dict[str, Any]:
    """All that the scores depend on, but for their last bits."""
    return {
        "samples": samples.identity(),
        "store": store.schema.digest,
        "checkpoint": {"step": taken.progress["step"], "files": taken.files},
        "model": dataclasses.asdict(config.model),
        "history_length": config.data.history_length,
        "part_rows": wanted.part_rows,
    }


def run_prediction(
    folder: RunFolder, config: RunConfig, wanted: PredictConfig, process: Process
) -> Path | None:
    """Score the samples; the file of their scores on the first process, None on the others.

    Raises:
        UserError: input that cannot be used, or output that cannot be written; names it.
    """
    store = open_store(folder, config)
    samples = open_samples(wanted, config, store)
    out = output_file(wanted, config, folder)
    taken = chosen_checkpoint(folder, process, wanted.checkpoint)
    request = from_first(lambda: request_of(samples, taken, store, config, wanted), process)
    parts = ScoreParts(out.with_name(f"{out.name}.parts"), request)
    finished = from_first(parts.open, process)
    model = load_model(taken, store, config, process)
    fold(model)
    hidden = not (wanted.progress and process.is_first)
    with tqdm(total=len(samples), unit="sample", disable=hidden) as bar:
        bar.update(min(len(finished) * wanted.part_rows, len(samples)))
        for part in samples.parts(wanted.part_rows, finished):
            loader = make_loader(store, part.split, config, process, shuffle=False)
            found = predict(model, loader, process)
            if found is not None:
                scores = in_order(part, found, part.number * wanted.part_rows)
                parts.write(part.number, scores, part.unknown)
            bar.update(len(part.split))
    if not process.is_first:
        return None
    write_scored(out, samples, parts, wanted.score_column)
    for name, count in parts.unknown().items():
        if count:
            _log.warning(
                "%s of %s samples: %s not in the store, scored as the unknown one",
                *(f"{count:,}", f"{len(samples):,}", name),
            )
    parts.remove()
    return out


def in_order(part: Part, found: dict[str, np.ndarray], first: int) -> np.ndarray:
    """Scores of a part as its samples stood before they were sorted: float32 [n].

    Args:
        part: that was scored; found: of `predict`; first: row of the part among all samples.

    Raises:
        ScoresError: a score that is not finite.
    """
    scores = np.empty(len(part.place), dtype=np.float32)
    scores[part.place[found["sample"]]] = found["score"]
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise ScoresError(
            f"row {first + int(bad[0])} gets the score {scores[bad[0]]}: the model diverged in "
            "training; choose checkpoint=best, or train again with a smaller trainer.lr"
        )
    return scores


@hydra.main(version_base="1.3", config_path="../conf", config_name="predict")
def main(raw: DictConfig) -> None:
    """Load the run and score samples on all processes."""
    with errors_to_exit():
        wanted = parse_as(PredictConfig, raw)
        wanted.validate()
        folder = RunFolder(Path(wanted.run))
        config = reading_config(folder, wanted.store, wanted.batch_size, wanted.device)
        with process_group(wanted.device) as process:
            out = run_prediction(folder, config, wanted, process)
            if out is not None:
                print(out)


if __name__ == "__main__":
    main()
