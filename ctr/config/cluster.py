"""Configuration of the machines that embedding tables are spread over."""

from __future__ import annotations

from dataclasses import dataclass

from ctr.config.checks import require


@dataclass
class ClusterConfig:
    """The machines; null for what the job really has.

    Attributes:
        hosts: machines; devices_per_host: processes of one, each with a GPU or a share of the host.
        device_memory: of a GPU, in GB of 10^9 bytes; host_memory: of a host, which its processes
            share where they run on the CPU.
        reserved: share of a device's memory that tables must leave for activations, batches and
            the allocator.
        intra_host_bandwidth, inter_host_bandwidth: between two devices of one host and of two
            hosts, in GB/s; null for TorchRec's guess. They decide between plans that all fit.
    """

    hosts: int | None = None
    devices_per_host: int | None = None
    device_memory: float | None = None
    host_memory: float | None = None
    reserved: float = 0.15
    intra_host_bandwidth: float | None = None
    inter_host_bandwidth: float | None = None

    def validate(self) -> None:
        """Raise ConfigError on a value that cannot be."""
        for key in ("hosts", "devices_per_host"):
            value = getattr(self, key)
            require(value is None or value >= 1, f"cluster.{key}", value, "set at least 1, or null")
        for key in (
            *("device_memory", "host_memory"),
            *("intra_host_bandwidth", "inter_host_bandwidth"),
        ):
            value = getattr(self, key)
            require(value is None or value > 0, f"cluster.{key}", value, "set above 0, or null")
        share = self.reserved
        require(0.0 <= share < 1.0, "cluster.reserved", share, "set a share in [0, 1)")
