"""A trained run's model, and its predictions of a whole split, every row once.

Shape legend: S samples of the split, B samples of a batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn
from torchrec.distributed import DistributedModelParallel
from tqdm import tqdm

from ctr import checkpoint
from ctr.assemble import make_model, make_network
from ctr.config import RunConfig
from ctr.data.batch import Batch
from ctr.data.loader import Loader
from ctr.data.store import Store
from ctr.distributed import Process, from_first, gather_rows
from ctr.model.gsu import Retrieved
from ctr.model.network import Network
from ctr.model.trace import Trace
from ctr.run_folder import RunFolder
from ctr.state import model_tensors

# Columns of a batch, each [B], from what its forward pass did.
Look = Callable[[Batch, Trace], dict[str, np.ndarray]]


def reading_config(
    folder: RunFolder, store: str | None, batch_size: int | None, device: str
) -> RunConfig:
    """Configuration of a run, with what may be another where the run is only read.

    Args:
        folder: of the run.
        store: folder of its data, None for where it was; batch_size: samples a process and step,
            None for the run's; device: auto, cpu or cuda.

    Raises:
        ConfigError: no run there, or an impossible value.
    """
    config = folder.read_config()
    config.data.store = store or config.data.store
    if batch_size is not None:
        config.data.batch_size = batch_size
    config.device = device
    if config.data.vectors == "pinned" and (device == "cpu" or not torch.cuda.is_available()):
        # Trained on a GPU, read without one: where vectors are changes no result.
        config.data.vectors = "replicated"
    config.validate()
    return config


def open_store(folder: RunFolder, config: RunConfig) -> Store:
    """The store that a run was trained on, or one that goes on from it.

    Raises:
        StoreError: no store there, or a damaged one.
        ConfigError: another store.
    """
    store = Store(config.data.store)
    folder.check_store(store.schema, or_later=True)
    return store


def trained_model(
    folder: RunFolder, store: Store, config: RunConfig, process: Process, which: str = "newest"
) -> DistributedModelParallel:
    """The run's network with the weights of a checkpoint, in evaluation mode; on all processes.

    Args:
        folder: of the run; store: of `open_store`; config: of the run; process: this one.
        which: checkpoint: newest, or best (of a run with trainer.keep_best).

    Raises:
        CheckpointError: no sound checkpoint.
    """
    return load_model(chosen_checkpoint(folder, process, which), store, config, process)


def chosen_checkpoint(folder: RunFolder, process: Process, which: str) -> checkpoint.Checkpoint:
    """A sound checkpoint of a run, the same one on all processes.

    Args:
        folder: of the run; process: this one; which: newest or best.

    Raises:
        CheckpointError: there is none.
    """
    find = checkpoint.best if which == "best" else checkpoint.newest
    # One process checks the files, so that all read the same checkpoint.
    return from_first(lambda: find(folder.checkpoints), process)


def load_model(
    taken: checkpoint.Checkpoint, store: Store, config: RunConfig, process: Process
) -> DistributedModelParallel:
    """The network with the weights of a checkpoint, in evaluation mode; on all processes.

    Ids that the store has and the checkpoint's store had not are unknown to the model.

    Args:
        taken: of `chosen_checkpoint`; store: of `open_store`; config: of the run; process: this
            one.
    """
    network = make_network(store, config, process)
    model = make_model(network, config, process)
    grown = checkpoint.load(taken, model_tensors(model), may_have_grown=True)
    network.tables.trained_rows = {table: growth.then for table, growth in grown.items()}
    return model.eval()


def with_cosines(network: Network, batch: Batch, retrieved: Retrieved) -> Retrieved:
    """Picks with their similarities, which a model need not look at; as they are where the store
    has no vectors."""
    if retrieved.similarity_BK is None and network.catalog.has_vectors:
        return network.with_similarity(batch, retrieved)
    return retrieved


def predict(
    model: nn.Module,
    loader: Loader,
    process: Process,
    progress: bool = False,
    look: Look | None = None,
) -> dict[str, np.ndarray] | None:
    """Click probabilities of all samples that the processes' loaders read.

    Args:
        model: batch -> logits [B]; put into evaluation mode, and back after.
        loader: of this process's part, in the split's order.
        process: this process.
        progress: show a bar on the first process.
        look: what else to note of every batch; None for nothing. Of an empty batch, too: all
            processes must note the same columns in the same dtypes.

    Returns:
        On the first process: sample int64, user int32, item int32, label uint8 (of a split that has
        labels), score float32, then what `look` noted; each [S], by rising sample. None on the
        others.
    """
    was_training = model.training
    model.eval()
    noted: dict[str, list[np.ndarray]] = defaultdict(list)
    hidden = not (progress and process.is_first)
    bar = tqdm(total=len(loader.split), unit="sample", disable=hidden)
    # fbgemm has no kernels for inference mode.
    with torch.no_grad(), bar:
        for batch in loader:
            for name, column in _of_batch(model, batch.to(process.device), look).items():
                noted[name].append(column)
            bar.update(batch.step_samples)
    model.train(was_training)
    rows = gather_rows({name: np.concatenate(parts) for name, parts in noted.items()}, process)
    if rows is None:
        return None
    order = np.argsort(rows["sample"], kind="stable")
    rows = {name: column[order] for name, column in rows.items()}
    split, sample = loader.split, rows.pop("sample")
    known = {"sample": sample, "user": split.user[sample], "item": split.item[sample]}
    if split.label is not None:
        known["label"] = split.label[sample]
    return {**known, **rows}


def _of_batch(model: nn.Module, batch: Batch, look: Look | None) -> dict[str, np.ndarray]:
    """Sample, score and what `look` notes, of the samples of one batch on the model's device."""
    if look is None:
        logit_B, noted = model(batch), {}
    else:
        trace = Trace()
        logit_B = model(batch, trace)
        noted = look(batch, trace)
    score_B = torch.sigmoid(logit_B.float())
    return {"sample": batch.sample_B.cpu().numpy(), "score": score_B.cpu().numpy(), **noted}


def write_predictions(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Write predictions to Parquet, aside and renamed; NaN becomes an empty cell."""
    aside = path.with_suffix(".tmp")
    table = pa.table({name: pa.array(c, from_pandas=True) for name, c in columns.items()})
    pq.write_table(table, aside)
    aside.replace(path)
