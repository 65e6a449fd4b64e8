"""Time the loader over a store, after checking that it reads every sample once.

    python -m tools.time_loader --store stores/world [--split train] [--batch-size 1000]

The floor beside the rate is what copying the same bytes of history costs on this machine.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from ctr.data.loader import Loader
from ctr.data.store import Store

EPOCHS = 5


def main() -> None:
    """Check one epoch, time some more, print the median."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", required=True, help="folder or URL")
    parser.add_argument("--split", default="train")
    parser.add_argument("--batch-size", type=int, default=1000)
    parser.add_argument("--history-length", type=int, default=1000)
    options = parser.parse_args()
    store = Store(options.store)
    loader = Loader(
        store,
        store.split(options.split, need_labels=False),
        batch_size=options.batch_size,
        history_length=options.history_length,
        seed=0,
    )
    history_bytes = _check(loader)
    seconds = [_seconds(loader) for _ in range(EPOCHS)]
    floor = history_bytes / _copy_rate()
    median = statistics.median(seconds)
    samples = len(loader.split)
    print(
        f"{samples / median:,.0f} samples/s (median of {EPOCHS} epochs of {samples:,} samples, "
        f"{min(seconds):.3f} to {max(seconds):.3f} s); copying their {history_bytes / 1e6:,.0f} MB "
        f"of history alone takes {floor:.3f} s"
    )


def _check(loader: Loader) -> int:
    """Bytes of history of an epoch; raises SystemExit unless each sample is read once."""
    rows, history_bytes = [], 0
    for batch in loader:
        rows.append(batch.sample_B.numpy())
        history_bytes += batch.history_item_T.numel() * batch.history_item_T.element_size()
    if not np.array_equal(np.sort(np.concatenate(rows)), np.arange(len(loader.split))):
        raise SystemExit("error: the loader does not read every sample exactly once")
    return history_bytes


def _seconds(loader: Loader) -> float:
    started = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - started


def _copy_rate() -> float:
    """Bytes a second of a memory copy, median of several."""
    source = np.ones(64 << 20, dtype=np.uint8)
    target = np.empty_like(source)
    rates = []
    for _ in range(9):
        started = time.perf_counter()
        np.copyto(target, source)
        rates.append(source.nbytes / (time.perf_counter() - started))
    return statistics.median(rates)


if __name__ == "__main__":
    main()
