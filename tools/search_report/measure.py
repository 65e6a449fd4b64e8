"""Figures of a run's search over a whole split.

Shape legend: B samples, K picks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ctr.assemble import make_loader
from ctr.config import ConfigError
from ctr.data.batch import Batch
from ctr.errors import UserError
from ctr.model.build import check_needs
from ctr.model.gsu import GeneralSearchUnit, Retrieved
from ctr.model.network import Network
from ctr.slices import ages
from tools.search_report.attention import attention_recall
from tools.search_report.picks import other_search, picks, searching, shared
from tools.trained_run import TrainedRun

_SIMILARITY_EDGES = np.round(np.linspace(-1.0, 1.0, 41), 2)


@dataclass
class Sums:
    """What batches have added up so far.

    Attributes:
        k: picks wanted; age_edges: int64, the last above any age.
        samples: rows; fewer: rows with fewer than k picks.
        similarity: counts of picks by `_SIMILARITY_EDGES`; None where no pick has a similarity.
        age: counts of picks by age_edges.
        overlap: shares of the run's picks that another search picks too, added up over `picked`
            rows with a pick.
    """

    k: int
    age_edges: np.ndarray
    samples: int = 0
    fewer: int = 0
    similarity: np.ndarray | None = None
    age: np.ndarray = field(init=False)
    overlap: dict[str, float] = field(default_factory=dict)
    picked: int = 0

    def __post_init__(self) -> None:
        self.age = np.zeros(len(self.age_edges) - 1, dtype=np.int64)

    def add(self, batch: Batch, retrieved: Retrieved, others: dict[str, Retrieved]) -> None:
        """Add a batch: its picks, and those of other searches by name."""
        count_B = retrieved.mask_BK.sum(dim=1)
        self.samples += len(batch)
        self.fewer += int((count_B < self.k).sum())
        self.picked += int((count_B > 0).sum())
        age = ages(batch, retrieved)[retrieved.mask_BK].cpu().numpy()
        self.age += np.histogram(age, self.age_edges)[0]
        if retrieved.similarity_BK is not None:
            known_BK = retrieved.known_BK
            known_BK = retrieved.mask_BK if known_BK is None else retrieved.mask_BK & known_BK
            # Rounding leaves a cosine a little above 1.
            cosine = retrieved.similarity_BK[known_BK].clamp(-1.0, 1.0).cpu().numpy()
            counts = np.histogram(cosine, _SIMILARITY_EDGES)[0]
            self.similarity = counts if self.similarity is None else self.similarity + counts
        for name, other in others.items():
            share_B = shared(retrieved, other) / count_B.clamp(min=1)
            self.overlap[name] = self.overlap.get(name, 0.0) + float(share_B.double().sum())


def search_report(
    run: TrainedRun, against: Sequence[str], recall_samples: int
) -> tuple[dict[str, Any], list[str]]:
    """What `gsu_<split>.json` holds, and why an entry of it is null.

    Args:
        run: whose model has a search.
        against: names of other searches.
        recall_samples: rows on which full attention is tried.

    Raises:
        ConfigError: the model has no search.
    """
    network, model = run.network, run.config.model
    if network.gsu is None:
        raise ConfigError(f"run={run.folder.path}: its model has no search (model.gsu=none)")
    names, notes = usable(run, against)
    others = {name: other_search(network, model, name) for name in names}
    longest = min(run.config.data.history_length, run.store.schema.max_history)
    edges = 2 ** np.arange(max(1, longest).bit_length() + 1)
    sums = Sums(model.retrieved, edges)
    loader = make_loader(run.store, run.split, run.config, run.process, shuffle=False)
    bar = tqdm(total=len(loader.split), unit="sample", disable=None, leave=False)
    with torch.no_grad(), bar:
        for given in loader:
            batch = given.to(run.process.device)
            retrieved = picks(network, batch)
            sums.add(batch, retrieved, _picks_of(network, batch, others))
            bar.update(len(batch))
        recall = attention_recall(run, recall_samples)
    if recall is None and recall_samples:
        notes.append(
            f"attention_recall: no row sees more than {sums.k} behaviours, or no attention reads "
            "the picks"
        )
    return _report(run, sums, against, recall), notes


def _picks_of(
    network: Network, batch: Batch, others: dict[str, GeneralSearchUnit]
) -> dict[str, Retrieved]:
    found = {}
    for name, gsu in others.items():
        with searching(network, gsu):
            retrieved = network.search(batch)
        assert retrieved is not None
        found[name] = retrieved
    return found


def usable(run: TrainedRun, against: Sequence[str]) -> tuple[list[str], list[str]]:
    """The searches that store and model have what it takes for, and what is said of the others."""
    found, notes = [], []
    for name in against:
        searching_so = replace(run.config.model, gsu=name)
        try:
            searching_so.validate()
            check_needs(run.store.schema, searching_so)
            found.append(name)
        except UserError as error:
            notes.append(f"overlap with {name}: {error}")
    return found, notes


def _report(
    run: TrainedRun, sums: Sums, against: Sequence[str], recall: dict[str, Any] | None
) -> dict[str, Any]:
    similarity = None
    if sums.similarity is not None:
        counts = sums.similarity.tolist()
        similarity = {"edges": _SIMILARITY_EDGES.tolist(), "counts": counts}
    overlap = {
        name: sums.overlap[name] / sums.picked if name in sums.overlap and sums.picked else None
        for name in against
    }
    return {
        "split": run.split_name,
        "samples": sums.samples,
        "gsu": run.config.model.gsu,
        "k": sums.k,
        "fewer_than_k": sums.fewer / sums.samples,
        "similarity": similarity,
        "age": {"edges": sums.age_edges.tolist(), "counts": sums.age.tolist()},
        "overlap": overlap,
        "attention_recall": recall,
    }
