"""Predictions of a whole split, every row once, gathered on the first process.

Shape legend: S samples of the split.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn
from tqdm import tqdm

from ctr.data.loader import Loader
from ctr.distributed import Process, gather_rows


def predict(
    model: nn.Module, loader: Loader, process: Process, progress: bool = False
) -> dict[str, np.ndarray] | None:
    """Click probabilities of all samples that the processes' loaders read.

    Args:
        model: batch -> logits [B]; put into evaluation mode, and back after.
        loader: of this process's part, in the split's order.
        process: this process.
        progress: show a bar on the first process.

    Returns:
        On the first process: sample int64, user int32, item int32, label uint8, score float32, each
        [S], by rising sample. None on the others.
    """
    was_training = model.training
    model.eval()
    samples, scores = [], []
    hidden = not (progress and process.is_first)
    # fbgemm has no kernels for inference mode.
    bar = tqdm(total=len(loader.split), unit="sample", disable=hidden)
    with torch.no_grad(), bar:
        for batch in loader:
            score_B = torch.sigmoid(model(batch.to(process.device)).float())
            samples.append(batch.sample_B.numpy())
            scores.append(score_B.cpu().numpy())
            bar.update(batch.step_samples)
    model.train(was_training)
    rows = gather_rows(
        {"sample": np.concatenate(samples), "score": np.concatenate(scores)}, process
    )
    if rows is None:
        return None
    order = np.argsort(rows["sample"], kind="stable")
    sample = rows["sample"][order]
    split = loader.split
    return {
        "sample": sample,
        "user": split.user[sample],
        "item": split.item[sample],
        "label": split.label[sample],
        "score": rows["score"][order],
    }


def write_predictions(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Write predictions to Parquet, aside and renamed."""
    aside = path.with_suffix(".tmp")
    pq.write_table(pa.table({name: pa.array(c) for name, c in columns.items()}), aside)
    aside.replace(path)
