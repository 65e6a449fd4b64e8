"""Where embedding tables would go on a cluster that one does not have, and what a step would send.

    python -m tools.plan data.store=stores/taobao_mm
    python -m tools.plan --rows item=243153410 user_id=6929606 --vectors 128 --devices 1
    python -m tools.plan --rows item=23600000000 --devices auto cluster=h100_8
    python -m tools.plan --rows item=243153410 +embedding.table_sharding.item=[table_wise]

Other arguments are those of ctr/train.py; the cluster is cluster=h100_8 unless one is named. Of a
store, which may be at a URL, its manifest is read and nothing else, and no table is made. Exit code
2 where the tables do not fit: the message names the table, the bytes that are missing and what
would help.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Sequence

from ctr.cluster import Cluster, other_cluster
from ctr.command import errors_to_exit
from ctr.config import ConfigError
from ctr.distributed import quiet_libraries
from ctr.planning import PlanError, enough_devices, fits, make_plan, model_tables
from tools.arguments import whole_number
from tools.composed import compose_run
from tools.plan.figures import devices_of, planned_tables, traffic_of
from tools.plan.job import Job, invented_schema, make_job, parse_rows, store_schema
from tools.plan.text import Planned, as_json, as_text

_SETTING = re.compile(r"[+~]*[A-Za-z_][\w.@]*=")
_GROUP = re.compile(r"[+~]*cluster=")


def main(arguments: Sequence[str] | None = None) -> None:
    """Plan and print."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options, rest = _parser().parse_known_args(_rows_last(given))
    quiet_libraries()
    with errors_to_exit():
        for argument in rest:
            if not _SETTING.match(argument):
                raise ConfigError(f"{argument}: no option; see python -m tools.plan --help")
        named = any(_GROUP.match(argument) for argument in rest)
        config = compose_run([*rest, *([] if named else ["cluster=h100_8"])])
        if options.rows:
            schema = invented_schema(parse_rows(options.rows), options.vectors)
        else:
            schema = store_schema(config)
        job = make_job(config, schema, options.samples_per_user)
        planned = plan(job, options.devices)
    print(json.dumps(as_json(planned), indent=2) if options.json else as_text(planned))


def plan(job: Job, devices: str | None) -> Planned:
    """A plan for a job.

    Args:
        devices: how many; auto for the fewest that will do; None for all of the cluster's.

    Raises:
        PlanError: the tables do not fit.
        ConfigError: a number of devices that makes no whole hosts.
    """
    tables = model_tables(job.tables, job.config.embedding)
    kind = "cpu" if job.config.device == "cpu" else "cuda"
    cluster = other_cluster(job.config.cluster, kind)

    def without_items(cluster: Cluster) -> Cluster:
        return cluster.without(job.item_bytes(cluster.devices))

    if devices == "auto":
        found = enough_devices(
            lambda n: fits(job.tables, tables, without_items(cluster.of(n))),
            cluster.devices_per_host,
        )
        # Where no number will do, the plan for one host says why.
        cluster = cluster.of(found or cluster.devices_per_host)
    elif devices is not None:
        cluster = cluster.of(_whole_hosts(devices, cluster.devices_per_host))
    items = job.item_bytes(cluster.devices)
    if items > cluster.usable:
        raise PlanError(
            f"frozen vectors and features of items take {items:,} bytes on each device, which has "
            f"{cluster.usable:,}: {items - cluster.usable:,} are missing; set data.vectors=sharded "
            "or pinned, or more cluster.device_memory"
        )
    made = make_plan(job.tables, tables, without_items(cluster))
    placed = planned_tables(made, tables, cluster.devices)
    ids = job.ids()
    return Planned(
        job=job,
        cluster=cluster,
        tables=placed,
        devices=devices_of(placed, cluster, items),
        ids=ids,
        traffic=traffic_of(placed, ids, cluster.devices),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--rows", nargs="+", default=[], metavar="TABLE=ROWS", help="in place of a store")
    told = "int8 numbers of an item's, with --rows"
    add("--vectors", type=whole_number(0), default=0, metavar="M", help=told)
    add("--devices", metavar="N", help="how many, or auto: the fewest that will do")
    told = "that come together (default: the store's mean, or 11)"
    add("--samples-per-user", type=_samples_per_user, metavar="S", help=told)
    add("--json", action="store_true", help="print JSON, all figures in bytes")
    return parser


def _samples_per_user(text: str) -> float:
    try:
        samples = float(text)
    except ValueError:
        samples = math.nan
    if not 1.0 <= samples < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} given, must be a number of 1 or more")
    return samples


def _rows_last(given: list[str]) -> list[str]:
    """The command line with what follows --rows bounded: settings have their own `=`, too.

    A table has a plain name, which no configuration key has that could be set to a number.
    """
    if "--rows" not in given:
        return given
    start = given.index("--rows") + 1
    end = start
    while end < len(given) and re.fullmatch(r"\w+=\d.*", given[end]):
        end += 1
    return [*given[: start - 1], *given[end:], *given[start - 1 : end]]


def _whole_hosts(devices: str, per_host: int) -> int:
    number = int(devices) if devices.isdecimal() else 0
    if number < 1 or (number > per_host and number % per_host):
        raise ConfigError(
            f"--devices {devices}: give auto, at most {per_host}, or a multiple of it "
            "(cluster.devices_per_host)"
        )
    return number


if __name__ == "__main__":
    main()
