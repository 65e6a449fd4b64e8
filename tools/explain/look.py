"""What the model does with one sample: the behaviours it looks at, and what its input parts change.

Shape legend: B samples, K picks, P latest behaviours, N parts of the head's input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ctr.data.batch import Batch
from ctr.data.loader import BatchBuilder
from ctr.data.store import Split
from ctr.model.gsu import Retrieved
from ctr.model.network import Network
from ctr.model.trace import Trace
from tools.trained_run import TrainedRun


@dataclass(frozen=True)
class Behaviour:
    """An event that the model looks at.

    Attributes:
        age: counted back from the end of what the sample sees; 1 is the latest.
        position: in the user record's history, from 0.
        item: row; side: row of each side column.
        similarity: cosine of frozen vectors to the target; None where one of the two has none.
        weights: by attention unit that looks at it.
    """

    age: int
    position: int
    item: int
    side: dict[str, int]
    similarity: float | None
    weights: dict[str, float]


@dataclass(frozen=True)
class Insight:
    """What the model does with one sample.

    Attributes:
        logit: its output; probability: of a click, the sigmoid of it.
        seen: events that the sample sees.
        sequences: behaviours by sequence ("recent", "retrieved"), by falling weight of its first
            unit.
        changes: of the logit when an input part of the head is replaced by its mean over the
            reference samples, by part.
        reference: number of those.
    """

    logit: float
    probability: float
    seen: int
    sequences: dict[str, list[Behaviour]]
    changes: dict[str, float]
    reference: int


def look(run: TrainedRun, sample: Split, reference: int) -> Insight:
    """Run the model on one sample, and on reference samples of the run's split.

    Args:
        run: whose model.
        sample: a split of one sample.
        reference: samples drawn at random, at most.
    """
    longest, device = run.config.data.history_length, run.process.device
    random = np.random.default_rng(run.config.seed)
    rows = random.choice(len(run.split), min(reference, len(run.split)), replace=False)
    others = BatchBuilder(run.store, run.split, longest).build(np.sort(rows), len(rows)).to(device)
    batch = BatchBuilder(run.store, sample, longest).build(np.zeros(1, np.int64), 1).to(device)
    with torch.no_grad():
        means, trace = Trace(), Trace()
        run.network(others, means)
        logit_B = run.network(batch, trace)
        behaviours = _behaviours(run.network, batch, trace, int(sample.history_end[0]))
        changes = _changes(run.network, trace, means)
    seen = int(batch.history_end_B[0] - batch.history_begin_B[0])
    logit = logit_B.float()
    return Insight(
        logit=logit.item(),
        probability=logit.sigmoid().item(),
        seen=seen,
        sequences=behaviours,
        changes=changes,
        reference=len(rows),
    )


def _changes(network: Network, trace: Trace, means: Trace) -> dict[str, float]:
    """Change of the logit of the traced sample by part that is replaced by its mean."""
    parts = trace.parts
    without_N = [
        torch.cat(
            [means.parts[n].mean(0, keepdim=True) if n == name else p for n, p in parts.items()],
            dim=1,
        )
        for name in parts
    ]
    # Scored together, so that what rounding leaves is the same in all.
    logit_N = network.head(torch.cat([torch.cat([*parts.values()], dim=1), *without_N])).float()
    changes = (logit_N[1:] - logit_N[0]).tolist()
    return dict(zip(parts, changes, strict=True))


def _behaviours(
    network: Network, batch: Batch, trace: Trace, history_end: int
) -> dict[str, list[Behaviour]]:
    sequences = {}
    if trace.retrieved is not None:
        retrieved = trace.retrieved
        sequences["retrieved"] = retrieved.index_BK[0], retrieved.mask_BK[0]
    if trace.recent_index_BP is not None and trace.recent_mask_BP is not None:
        sequences["recent"] = trace.recent_index_BP[0], trace.recent_mask_BP[0]
    weights: dict[int, dict[str, float]] = {}
    order = {}
    for name, (index, mask) in sequences.items():
        order[name] = index[mask].tolist()
        units = {u: w[0][mask].tolist() for u, w in trace.weights.items() if _is_of(u, name)}
        for place, event in enumerate(order[name]):
            of_event = weights.setdefault(event, {})
            of_event.update({unit: values[place] for unit, values in units.items()})
        if units:
            first = next(iter(units.values()))
            places = sorted(range(len(first)), key=lambda place: -first[place])
            order[name] = [order[name][place] for place in places]
    similarity = _similarities(network, batch, [*weights])
    end = int(batch.history_end_B[0])
    found = {
        event: Behaviour(
            age=end - event,
            position=history_end - (end - event),
            item=int(batch.history_item_T[event]),
            side={name: int(column[event]) for name, column in batch.history_events_T.items()},
            similarity=similarity[event],
            weights=of_event,
        )
        for event, of_event in weights.items()
    }
    return {name: [found[event] for event in events] for name, events in order.items()}


def _is_of(unit: str, sequence: str) -> bool:
    return unit.split(".")[0] == sequence


def _similarities(network: Network, batch: Batch, events: list[int]) -> dict[int, float | None]:
    if not network.catalog.has_vectors or not events:
        return dict.fromkeys(events)
    index_BK = torch.tensor([events], device=batch.user_B.device)
    all_of_them = Retrieved(index_BK, torch.ones_like(index_BK, dtype=torch.bool))
    found = network.with_similarity(batch, all_of_them)
    assert found.similarity_BK is not None and found.known_BK is not None
    pairs = zip(found.similarity_BK[0].tolist(), found.known_BK[0].tolist(), strict=True)
    return {
        event: value if known else None for event, (value, known) in zip(events, pairs, strict=True)
    }
