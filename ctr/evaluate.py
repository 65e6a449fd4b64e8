"""Evaluate a run offline: `python ctr/evaluate.py run=<folder> [split=test]`, or under torchrun."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import hydra
import numpy as np
from omegaconf import DictConfig

from ctr.assemble import make_loader
from ctr.command import errors_to_exit
from ctr.config import ConfigError, RunConfig, parse_as
from ctr.data.batch import Batch
from ctr.distributed import Process, process_group
from ctr.inference import (
    Look,
    open_store,
    predict,
    reading_config,
    trained_model,
    with_cosines,
    write_predictions,
)
from ctr.metrics import Metrics, evaluate_predictions
from ctr.metrics.plain import without_nan
from ctr.model.head import fold
from ctr.model.network import Network
from ctr.model.trace import Trace
from ctr.run_folder import RunFolder
from ctr.slices import search_columns, store_columns


@dataclass
class EvaluateConfig:
    """What to evaluate.

    Attributes:
        run: folder of a training run.
        split: of the run's store; null for the configured test split.
        checkpoint: newest, or best (of a run with trainer.keep_best).
        store: of the run's data, where it moved; null for where it was.
        batch_size: samples a process and step; null for the run's.
        device: auto, cpu or cuda.
        fold: derive once what evaluation needs of the weights, instead of at every batch.
        progress: show a progress bar.
    """

    run: str = "runs/latest"
    split: str | None = None
    checkpoint: str = "newest"
    store: str | None = None
    batch_size: int | None = None
    device: str = "auto"
    fold: bool = True
    progress: bool = True


def run_evaluation(
    folder: RunFolder, config: RunConfig, wanted: EvaluateConfig, process: Process
) -> Metrics | None:
    """Metrics of the run's checkpoint on the first process, None on the others.

    Raises:
        StoreError: the split is not there, or has no labels.
    """
    store = open_store(folder, config)
    split_name = wanted.split or config.data.test_split
    split = store.split(split_name)
    loader = make_loader(store, split, config, process, shuffle=False)
    model = trained_model(folder, store, config, process, wanted.checkpoint)
    if wanted.fold:
        fold(model)
    found = predict(model, loader, process, wanted.progress, slices_of_search(model.module))
    if found is None:
        return None
    metrics = evaluate_predictions(found["label"], found["score"], found["user"])
    train = store.split(config.data.train_split, need_labels=False)
    of_store = store_columns(store, split, train, config.data.history_length)
    found |= {name: column[found["sample"]] for name, column in of_store.items()}
    write_predictions(folder.predictions(split_name), found)
    values = without_nan(metrics.as_dict())
    path = folder.evaluation(split_name)
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(values, indent=2) + "\n")
    aside.replace(path)
    return metrics


def slices_of_search(network: Network) -> Look | None:
    """What to note of every forward pass; None for a model without a search."""
    if network.gsu is None:
        return None

    def look(batch: Batch, trace: Trace) -> dict[str, np.ndarray]:
        assert trace.retrieved is not None
        return search_columns(batch, with_cosines(network, batch, trace.retrieved))

    return look


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(raw: DictConfig) -> None:
    """Load the run, predict a split on all processes, print and write its metrics."""
    with errors_to_exit():
        wanted = parse_as(EvaluateConfig, raw)
        if wanted.checkpoint not in ("newest", "best"):
            raise ConfigError(f"checkpoint={wanted.checkpoint}: set newest or best")
        folder = RunFolder(Path(wanted.run))
        config = reading_config(folder, wanted.store, wanted.batch_size, wanted.device)
        with process_group(wanted.device) as process:
            metrics = run_evaluation(folder, config, wanted, process)
            if metrics is not None:
                for name, value in metrics.as_dict().items():
                    print(f"{name:20s} {value:.6g}")


if __name__ == "__main__":
    main()
