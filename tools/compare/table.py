"""One row for a variant and point: metrics with their spread over seeds, and what they cost."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tools.compare.plan import Run, Sweep, Variant
from tools.compare.runs import COSTS, DERIVED, METRICS, Failure, read_environment, read_figures
from tools.compare.spread import Spread, spread

_TITLES = {"auc": "AUC", "gauc": "GAUC", "log_loss": "log loss"}
_LEGEND = (
    "± is the standard deviation over seeds; in brackets stands the 95% interval of the mean over "
    "training seeds (Student's t). It holds what another seed changes, not another choice of test "
    "users: for that see `python -m tools.compare_runs`. Costs are medians over the seeds; memory "
    "is the peak resident set of the first process, search seconds are its share of the training "
    "time without validation and checkpoints."
)


@dataclass(frozen=True)
class Row:
    """A variant at a point.

    Attributes:
        seeds: that are finished; failed: that are not.
        metrics: by name, over the seeds; costs: medians by name, None where no run has them.
        runs: figures of each finished seed.
    """

    variant: Variant
    seeds: tuple[int, ...]
    failed: tuple[int, ...]
    metrics: dict[str, Spread]
    costs: dict[str, float | None]
    runs: tuple[dict[str, float | None], ...]


def make_rows(runs: Sequence[Run]) -> list[Row]:
    """Rows in the order of the runs' variants; a variant without a finished run has one, too."""
    rows = []
    for variant in dict.fromkeys(run.variant for run in runs):
        own = [(run.seed, read_figures(run)) for run in runs if run.variant == variant]
        finished = {seed: figures for seed, figures in own if figures is not None}
        figures = tuple(finished.values())
        rows.append(
            Row(
                variant,
                tuple(finished),
                tuple(seed for seed, found in own if found is None),
                {name: spread([f[name] for f in figures]) for name in METRICS},
                {name: _median([f[name] for f in figures]) for name in (*COSTS, *DERIVED)},
                figures,
            )
        )
    return rows


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def as_json(
    rows: Sequence[Row], runs: Sequence[Run], sweep: Sweep | None, failures: Sequence[Failure]
) -> dict[str, Any]:
    """The table with all that its figures were made with."""
    environments: list[dict[str, Any]] = []
    for run in runs:
        if read_figures(run) is not None:
            environment = read_environment(run)
            if environment not in environments:
                environments.append(environment)
    return {
        "rows": [
            {
                "label": row.variant.label,
                "point": row.variant.point,
                "settings": list(row.variant.settings),
                "seeds": list(row.seeds),
                "failed_seeds": list(row.failed),
                **{name: asdict(found) for name, found in row.metrics.items()},
                **row.costs,
                "runs": [
                    {"seed": seed, **run} for seed, run in zip(row.seeds, row.runs, strict=True)
                ],
            }
            for row in rows
        ],
        "swept": None if sweep is None else sweep.key,
        "failures": [str(failure) for failure in failures],
        "interval": "95% of the mean over training seeds, Student's t",
        # One, where nothing changed between the runs.
        "environments": environments,
    }


def as_markdown(rows: Sequence[Row], sweep: Sweep | None) -> str:
    """The table as a reader wants it, with a line that says what its figures are."""
    swept = [] if sweep is None else [sweep.key]
    titles = ["variant", *swept, "seeds", *(_TITLES[name] for name in METRICS)]
    titles += ["training samples/s", "parameters dense / embedding"]
    titles += ["search ms a step", "search s (share)", "peak MiB a process"]
    lines = [_line(titles), _line(["---"] * len(titles))]
    for row in rows:
        point = [] if row.variant.point is None else [row.variant.point]
        cells = [row.variant.label, *point, str(len(row.seeds))]
        cells += [_metric(row.metrics[name]) for name in METRICS]
        lines.append(_line([*cells, *_costs(row.costs)]))
    return "\n".join([*lines, "", _LEGEND]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _metric(found: Spread) -> str:
    if found.mean is None:
        return "-"
    if found.deviation is None:
        return f"{found.mean:.4f}"
    interval = f"({found.low:.4f} to {found.high:.4f})"
    return f"{found.mean:.4f} ± {found.deviation:.4f} {interval}"


def _costs(costs: dict[str, float | None]) -> list[str]:
    dense, tables = (_number(costs[f"parameters_{part}"]) for part in ("dense", "embedding"))
    searched, share = costs["search_seconds"], costs["search_share"]
    search = "-" if searched is None or share is None else f"{searched:.1f} ({share:.1%})"
    rate, memory = (_number(costs[name]) for name in ("samples_per_s", "peak_memory_mib"))
    a_step = costs["search_ms_per_step"]
    return [
        rate,
        f"{dense} / {tables}",
        "-" if a_step is None else f"{a_step:.2f}",
        search,
        memory,
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
