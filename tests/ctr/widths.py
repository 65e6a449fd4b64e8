"""Child of test_widths: trains the same steps on however many processes torchrun starts.

Under torchrun: `widths.py STORE OUT MODEL...`. In one start, since a start takes seconds and a step
of a small model milliseconds. Two processes on one host also train with the pipeline on, and write
how many ids they sent.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from hydra import compose, initialize_config_dir

from ctr.config import parse_config
from ctr.distributed import gather_objects, process_group
from ctr.model.embeddings import EmbeddingTables
from ctr.train import run

CONF = Path(__file__).resolve().parents[2] / "conf"
# The ninth is what is left of the epoch.
STEP, STEPS = 212, 9
MODELS = ("muse", "muse_qin", "sim_soft")


def config_of(store, out, world_size, model, *more):
    """Steps of STEP samples on all processes together."""
    settings = [f"model={model}", f"data.store={store}", f"run={out}", "data.history_length=64"]
    settings += [f"data.batch_size={STEP // world_size}", f"trainer.max_steps={STEPS}"]
    # ASTA and QNN have kinks, at which rounding decides for one slope or another; with this seed no
    # number comes that close to one.
    settings += ["trainer.log_every=1", "trainer.progress=false", "seed=1"]
    settings += ["embedding.init_std=0.1", *more]
    return parse_config(compose("train", overrides=settings))


class Wire:
    """Counts ids: those that tables are asked to look up, and those that are exchanged."""

    def __init__(self):
        self.asked = self.sent = 0
        gather, exchange = EmbeddingTables.gather, dist.all_to_all_single

        def counted_gather(tables, ids):
            lookup = gather(tables, ids)
            self.asked += sum(lookup.distinct().values())
            return lookup

        def counted_exchange(*args, **named):
            given = named["input"] if "input" in named else args[1]
            # Ids are the int64 numbers of which each process gets as many as it must; what is
            # exchanged evenly is how many.
            if named.get("input_split_sizes") is not None and given.dtype == torch.int64:
                self.sent += given.numel()
            return exchange(*args, **named)

        EmbeddingTables.gather, dist.all_to_all_single = counted_gather, counted_exchange
        self._put_back = gather, exchange

    def stop(self):
        """Count no more."""
        EmbeddingTables.gather, dist.all_to_all_single = self._put_back


def main() -> None:
    """Train the models; on two processes with the pipeline, too, and counting what is sent."""
    store, out, *models = sys.argv[1:]
    with initialize_config_dir(str(CONF), version_base="1.3"), process_group("cpu") as process:
        world_size = process.world_size
        for model in models:
            run(config_of(store, f"{out}/{model}", world_size, model), process)
        if process.local_world_size != 2:
            return
        wire = Wire()
        more = ["trainer.pipeline=true"]
        run(config_of(store, f"{out}/muse-ahead", world_size, "muse", *more), process)
        wire.stop()
        counts = gather_objects((wire.asked, wire.sent), process)
        run(config_of(store, f"{out}/sim_soft-ahead", world_size, "sim_soft", *more), process)
        if process.is_first:
            (Path(out) / "ids.json").write_text(json.dumps(counts))


if __name__ == "__main__":
    main()
