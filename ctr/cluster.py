"""The devices that embedding tables are spread over: those of this job, or of one to come."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torchrec.distributed.planner import Topology
from torchrec.distributed.planner.constants import CROSS_NODE_BANDWIDTH, INTRA_NODE_BANDWIDTH

from ctr.config import ClusterConfig, ConfigError
from ctr.distributed import Process

_GB = 10**9
# What a process of a container may use, where its host has more.
_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Cluster:
    """Devices that are all alike.

    Attributes:
        devices: processes, each with a GPU or a share of its host; devices_per_host: of one host.
        device_type: cuda or cpu.
        memory: bytes of a device; usable: what of it embedding tables and their optimizer may take.
        intra_host_bandwidth, inter_host_bandwidth: bytes a second; None for TorchRec's guess.
    """

    devices: int
    devices_per_host: int
    device_type: str
    memory: int
    usable: int
    intra_host_bandwidth: float | None = None
    inter_host_bandwidth: float | None = None

    def without(self, taken: int) -> Cluster:
        """The same devices, on each of which other things take so many bytes."""
        return replace(self, usable=max(0, self.usable - taken))

    def of(self, devices: int) -> Cluster:
        """So many of these devices."""
        per_host = min(devices, self.devices_per_host)
        return replace(self, devices=devices, devices_per_host=per_host)

    def topology(self) -> Topology:
        """The same for TorchRec's planner, which counts bytes a millisecond."""
        on_gpu = self.device_type == "cuda"
        intra, inter = self.intra_host_bandwidth, self.inter_host_bandwidth
        return Topology(
            world_size=self.devices,
            local_world_size=self.devices_per_host,
            compute_device=self.device_type,
            hbm_cap=self.usable if on_gpu else 0,
            ddr_cap=0 if on_gpu else self.usable,
            intra_host_bw=INTRA_NODE_BANDWIDTH if intra is None else intra / 1000,
            inter_host_bw=CROSS_NODE_BANDWIDTH if inter is None else inter / 1000,
        )


def own_cluster(config: ClusterConfig, process: Process) -> Cluster:
    """The devices of this job; sizes that `config` sets stand for those that it finds.

    Raises:
        ConfigError: another number of processes than `config` sets.
    """
    devices, local = process.world_size, process.local_world_size
    hosts = -(-devices // local)
    for key, wanted, found in (
        ("devices_per_host", config.devices_per_host, local),
        ("hosts", config.hosts, hosts),
    ):
        if wanted is not None and wanted != found:
            raise ConfigError(
                f"cluster.{key}={wanted}: this job has {found} (torchrun says how many); set null, "
                "and plan for a cluster that is not there with python -m tools.plan"
            )
    if process.device.type == "cuda":
        memory = torch.cuda.get_device_properties(process.device).total_memory
        memory = _bytes(config.device_memory) or memory
        cluster = _cluster(config, devices, local, "cuda", memory)
        # The frozen vectors, for one.
        return cluster.without(torch.cuda.memory_allocated(process.device))
    memory = (_bytes(config.host_memory) or _host_memory()) // local
    return _cluster(config, devices, local, "cpu", memory)


def other_cluster(config: ClusterConfig, device_type: str) -> Cluster:
    """The devices that `config` describes, none of which needs to be there.

    Raises:
        ConfigError: it does not say how much memory a device has.
    """
    local, hosts = config.devices_per_host or 1, config.hosts or 1
    if device_type == "cuda":
        if config.device_memory is None:
            raise ConfigError(
                "cluster.device_memory=null: there is no GPU to ask; set the GB of one, or "
                "cluster=h100_8"
            )
        memory = _bytes(config.device_memory)
    else:
        memory = (_bytes(config.host_memory) or _host_memory()) // local
    return _cluster(config, hosts * local, local, device_type, memory)


def _cluster(
    config: ClusterConfig, devices: int, per_host: int, device_type: str, memory: int
) -> Cluster:
    intra, inter = config.intra_host_bandwidth, config.inter_host_bandwidth
    return Cluster(
        devices=devices,
        devices_per_host=min(per_host, devices),
        device_type=device_type,
        memory=memory,
        usable=int(memory * (1.0 - config.reserved)),
        intra_host_bandwidth=None if intra is None else intra * _GB,
        inter_host_bandwidth=None if inter is None else inter * _GB,
    )


def _bytes(gigabytes: float | None) -> int:
    return int((gigabytes or 0.0) * _GB)


def _host_memory() -> int:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = _MEMORY_LIMIT.read_text().strip()
    except OSError:
        return memory
    return min(memory, int(limit)) if limit.isdigit() else memory
