"""Evaluate a run offline: `python ctr/evaluate.py run=<folder> [split=test]`, or under torchrun."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import hydra
from omegaconf import DictConfig

from ctr import checkpoint
from ctr.assemble import make_loader, make_model, make_network
from ctr.command import errors_to_exit
from ctr.config import ConfigError, RunConfig, parse_as
from ctr.data.store import Store
from ctr.distributed import Process, from_first, process_group
from ctr.inference import predict, write_predictions
from ctr.metrics import Metrics, evaluate_predictions
from ctr.metrics.plain import without_nan
from ctr.run_folder import RunFolder
from ctr.state import model_tensors


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
        progress: show a progress bar.
    """

    run: str = "runs/latest"
    split: str | None = None
    checkpoint: str = "newest"
    store: str | None = None
    batch_size: int | None = None
    device: str = "auto"
    progress: bool = True


def run_evaluation(
    folder: RunFolder, config: RunConfig, wanted: EvaluateConfig, process: Process
) -> Metrics | None:
    """Metrics of the run's checkpoint on the first process, None on the others."""
    store = Store(config.data.store)
    folder.check_store(store.schema)
    model = make_model(make_network(store, config, process), config, process)
    find = checkpoint.best if wanted.checkpoint == "best" else checkpoint.newest
    # One process checks the files, so that all read the same checkpoint.
    taken = from_first(lambda: find(folder.checkpoints), process)
    checkpoint.load(taken, model_tensors(model))
    split = wanted.split or config.data.test_split
    loader = make_loader(store, split, config, process, shuffle=False)
    found = predict(model, loader, process, wanted.progress)
    if found is None:
        return None
    metrics = evaluate_predictions(found["label"], found["score"], found["user"])
    write_predictions(folder.predictions(split), found)
    values = without_nan(metrics.as_dict())
    folder.evaluation(split).write_text(json.dumps(values, indent=2) + "\n")
    return metrics


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(raw: DictConfig) -> None:
    """Load the run, predict a split on all processes, print and write its metrics."""
    with errors_to_exit():
        wanted = parse_as(EvaluateConfig, raw)
        if wanted.checkpoint not in ("newest", "best"):
            raise ConfigError(f"checkpoint={wanted.checkpoint}: set newest or best")
        folder = RunFolder(Path(wanted.run))
        config = folder.read_config()
        config.data.store = wanted.store or config.data.store
        if wanted.batch_size is not None:
            config.data.batch_size = wanted.batch_size
        config.device = wanted.device
        config.validate()
        with process_group(wanted.device) as process:
            metrics = run_evaluation(folder, config, wanted, process)
            if metrics is not None:
                for name, value in metrics.as_dict().items():
                    print(f"{name:20s} {value:.6g}")


if __name__ == "__main__":
    main()
