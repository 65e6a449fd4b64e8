"""A plan as lines of text, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from ctr.cluster import Cluster
from tools.plan.figures import Device, PlannedTable, Traffic
from tools.plan.job import Job

# Of a table in a prepared store, which numbers them in 32 bits.
_MOST_ROWS = 2**31 - 1


@dataclass(frozen=True)
class Planned:
    """A plan with its figures.

    Attributes:
        tables: with their pieces; devices: by rank.
        ids: distinct ids a device asks of each table in a step; traffic: sent, received, by rank.
    """

    job: Job
    cluster: Cluster
    tables: list[PlannedTable]
    devices: list[Device]
    ids: dict[str, int]
    traffic: list[tuple[Traffic, Traffic]]


def as_json(planned: Planned) -> dict[str, Any]:
    """All figures, in bytes."""
    return {
        "cluster": asdict(planned.cluster),
        "tables": [
            {
                "name": table.table.name,
                "rows": table.table.rows,
                "dim": table.table.dim,
                "bytes": asdict(table.table.whole()),
                "sharding": table.sharding,
                "ranks": sorted({piece.device for piece in table.pieces}),
                "distinct_ids": planned.ids[table.table.name],
            }
            for table in planned.tables
        ],
        "devices": [
            {**asdict(device.tables), "items": device.items, "room": device.room}
            for device in planned.devices
        ],
        "step": [
            {"sent": asdict(sent), "received": asdict(received)}
            for sent, received in planned.traffic
        ],
    }


def as_text(planned: Planned) -> str:
    """Three tables: where each table is, what each device holds, what a step exchanges."""
    return "\n".join(
        [
            *_cluster(planned.cluster),
            "",
            *_tables(planned.tables),
            "",
            *_devices(planned.devices),
            "",
            *_step(planned),
        ]
    )


def _cluster(cluster: Cluster) -> list[str]:
    hosts = -(-cluster.devices // cluster.devices_per_host)
    kind = {"cuda": "GPU", "cpu": "CPU process"}[cluster.device_type]
    return [
        f"{cluster.devices} x {kind}, {hosts} x {cluster.devices_per_host}; "
        f"{_size(cluster.memory)} each, of which tables and vectors may take "
        f"{_size(cluster.usable)}"
    ]


def _tables(tables: Sequence[PlannedTable]) -> list[str]:
    rows = [["table", "rows", "dim", "weights", "optimizer", "sharding", "ranks"]]
    for planned in tables:
        table, whole = planned.table, planned.table.whole()
        ranks = sorted({piece.device for piece in planned.pieces})
        rows.append(
            [
                table.name,
                f"{table.rows:,}",
                str(table.dim),
                _size(whole.weights),
                _size(whole.states),
                planned.sharding,
                _span(ranks),
            ]
        )
    return _aligned(rows, left=(0, 5, 6))


def _devices(devices: Sequence[Device]) -> list[str]:
    held = [
        (d.tables.weights, d.tables.states, d.tables.gradients, d.items, d.room) for d in devices
    ]
    rows = [["ranks", "weights", "optimizer", "gradients", "items", "room left"]]
    # Devices that differ by a row look alike.
    for sizes, group in groupby(range(len(held)), key=lambda rank: [*map(_size, held[rank])]):
        rows.append([_span(list(group)), *sizes])
    return [
        "on a device (gradients: of replicated tables; items: frozen vectors and features)",
        *_aligned(rows, left=(0,)),
    ]


def _step(planned: Planned) -> list[str]:
    config, model = planned.job.config, planned.job.config.model
    asked = ", ".join(f"{n:,} of {name}" for name, n in planned.ids.items() if n)
    lines = [
        f"a step of {config.data.batch_size:,} samples a device, "
        f"{planned.job.samples_per_user:g} a user, {model.recent_length} recent and "
        f"{model.retrieved if model.gsu != 'none' else 0} retrieved behaviours:",
        f"at most so many distinct ids a device: {asked}",
    ]
    rows = [["rank", "", "ids", "embeddings", "gradients", "together"]]
    busiest = max(
        range(len(planned.traffic)), key=lambda rank: sum(t.total for t in planned.traffic[rank])
    )
    alike = len({_size(sent.total) for sent, _ in planned.traffic}) == 1
    for name, traffic in zip(("sends", "receives"), planned.traffic[busiest], strict=True):
        parts = (traffic.ids, traffic.embeddings, traffic.gradients, traffic.total)
        rows.append(["each" if alike else str(busiest), name, *map(_size, parts)])
    lines += ["", *_aligned(rows, left=(0, 1))]
    if not alike:
        mean = sum(sent.total for sent, _ in planned.traffic) / len(planned.traffic)
        lines.append(f"rank {busiest} has most to do; the mean rank sends {_size(mean)}")
    cluster = planned.cluster
    if cluster.devices > cluster.devices_per_host:
        others, far = cluster.devices - 1, cluster.devices - cluster.devices_per_host
        lines.append(f"{far} of a device's {others} partners are on other hosts")
    lines.append("counted, not measured; tables only, with ids spread evenly over their rows")
    most = max(placed.table.rows for placed in planned.tables)
    if most > _MOST_ROWS:
        lines.append(f"a prepared store has rows for {_MOST_ROWS:,} ids a table, not for {most:,}")
    return lines


def _aligned(rows: Sequence[Sequence[str]], left: tuple[int, ...]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _span(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return str(ranks[0])
    if list(ranks) == list(range(ranks[0], ranks[-1] + 1)):
        return f"{ranks[0]}-{ranks[-1]}"
    return ", ".join(map(str, ranks))


def _size(amount: float) -> str:
    for unit, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if abs(amount) >= unit:
            return f"{amount / unit:.2f} {name}"
    return f"{amount:.0f} B"
