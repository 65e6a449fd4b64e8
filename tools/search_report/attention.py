"""What attention over all behaviours would look at, against what the search picks.

Shape legend: K picks, L behaviours that a sample may see at most.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ctr.data.batch import Batch
from ctr.data.loader import BatchBuilder
from ctr.model.gsu import RecentSearch, Retrieved
from ctr.model.network import Network
from ctr.model.trace import Trace
from tools.search_report.picks import picks, searching, shared
from tools.trained_run import TrainedRun

# Behaviours that are looked at together: with vectors of 128 numbers 128 MiB.
_SEEN = 1 << 18


def attention_recall(run: TrainedRun, samples: int) -> dict[str, Any] | None:
    """Share of the K behaviours that attention over all would weight most that the search picks.

    Rows are drawn at random among those that see more than K behaviours: of others there is nothing
    to choose. The attention is the first unit of the picks, given every behaviour; of equal weights
    the later behaviour comes first.

    Args:
        run: whose model has a search.
        samples: rows at most.

    Returns:
        recall: mean over the rows; k; samples: rows drawn. None if no row sees enough, or if the
        model has no attention over its picks.
    """
    k, longest = run.config.model.retrieved, run.config.data.history_length
    seen = np.minimum(run.split.history_end, longest)
    enough = np.flatnonzero(seen > k)
    if len(enough) == 0 or samples == 0 or not run.config.model.retrieved_attention:
        return None
    random = np.random.default_rng(run.config.seed)
    rows = np.sort(random.choice(enough, min(samples, len(enough)), replace=False))
    widest = int(seen[rows].max())
    builder = BatchBuilder(run.store, run.split, longest)
    found = 0
    device, network = run.process.device, run.network
    parts = min(len(rows), -(-len(rows) * widest // _SEEN))
    for part in np.array_split(rows, parts):
        batch = builder.build(part, len(part)).to(device)
        found += int(shared(_most_weighted(network, batch, k, widest), picks(network, batch)).sum())
    return {"recall": found / (k * len(rows)), "k": k, "samples": len(rows)}


def _most_weighted(network: Network, batch: Batch, k: int, widest: int) -> Retrieved:
    """The k behaviours of each sample to which attention over all gives most."""
    trace = Trace()
    with searching(network, RecentSearch(widest)):
        network(batch, trace)
    assert trace.retrieved is not None
    unit = next(name for name in trace.weights if name.startswith("retrieved."))
    mask_BL = trace.retrieved.mask_BK
    weight_BL = trace.weights[unit].float().masked_fill(~mask_BL, -torch.inf)
    place_BK = weight_BL.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return Retrieved(trace.retrieved.index_BK.gather(1, place_BK), mask_BL.gather(1, place_BK))
