"""Run a step again that made a loss or a gradient which is not finite, and say where it began.

python -m tools.replay_batch RUN --step N [--device cpu]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ctr import checkpoint
from ctr.assemble import make_model, make_network
from ctr.command import errors_to_exit
from ctr.config import RunConfig
from ctr.data.store import Store
from ctr.distributed import Process, process_group
from ctr.evidence import EvidenceError, read_batch
from ctr.inference import reading_config
from ctr.loss import click_loss
from ctr.optim import dense_parameters, fuse_sparse_optimizer
from ctr.run_folder import RunFolder
from ctr.state import model_tensors

# After ctr, which sets how OpenMP waits.
import torch  # isort: skip
from torch import Tensor, nn  # isort: skip


def replay(folder: RunFolder, config: RunConfig, step: int, process: Process) -> list[str]:
    """What each process's batch of a step does to the model as it was then, one line a finding.

    Args:
        folder: of the run; config: its configuration; step: of a batch in its `nonfinite` folder.
        process: this one, alone.

    Raises:
        EvidenceError: no batch of that step.
        CheckpointError: the state beside it is damaged.
    """
    batches = sorted(folder.nonfinite.glob(f"step-{step:09d}.rank-*.pt"))
    if not batches:
        there = sorted({path.name.split(".")[0] for path in folder.nonfinite.glob("step-*.pt")})
        raise EvidenceError(f"{folder.nonfinite}: no batch of step {step}; there are {there}")
    state = checkpoint.verify(checkpoint.read(folder.nonfinite / f"step-{step:09d}"))
    store = Store(config.data.store)
    folder.check_store(store.schema)
    network = make_network(store, config, process)
    fuse_sparse_optimizer(network.tables, config.embedding, process.device)
    model = make_model(network, config, process)
    lines = []
    for path in batches:
        # The backward pass updates the tables, so every batch starts from the state as it was.
        checkpoint.load(state, model_tensors(model))
        lines += [f"{path.name}: {line}" for line in _findings(model, path, state, config, process)]
    return lines


def _findings(
    model: nn.Module,
    path: Path,
    state: checkpoint.Checkpoint,
    config: RunConfig,
    process: Process,
) -> Iterator[str]:
    # The forward pass may put what is not finite into running statistics.
    weights = [n for n, t in model_tensors(model).items() if not _finite(t)]
    batch = read_batch(path).to(process.device)
    bf16 = config.trainer.precision == "bf16"
    with _first_nonfinite(model) as found:
        with torch.autocast(process.device.type, dtype=torch.bfloat16, enabled=bf16):
            logit_B = model(batch)
        world_size = state.progress["world_size"]
        loss = click_loss(logit_B, batch.label_B, batch.step_samples, world_size)
    yield f"{len(batch)} samples, loss {loss.item():.6g}"
    if found:
        yield f"first output that is not finite: {found[0]}"
    if weights:
        yield f"weights that were not finite before the step: {', '.join(weights)}"
    loss.backward()
    dense = dense_parameters(model)
    bad = [n for n, p in dense.items() if p.grad is not None and not _finite(p.grad)]
    if bad:
        yield f"gradients that are not finite: {', '.join(bad)}"
    for parameter in dense.values():
        parameter.grad = None


@contextmanager
def _first_nonfinite(model: nn.Module) -> Iterator[list[str]]:
    """Names of modules, in the order of their calls, whose output is not finite."""
    found: list[str] = []

    def look(name: str) -> Any:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            outputs = output.values() if isinstance(output, dict) else [output]
            if any(isinstance(part, Tensor) and not _finite(part) for part in outputs):
                found.append(f"{name} ({type(module).__name__})")

        return hook

    hooks = [m.register_forward_hook(look(name)) for name, m in model.named_modules() if name]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _finite(tensor: Any) -> bool:
    """Whether all numbers of a tensor, or of this process's shards of one, are finite."""
    if hasattr(tensor, "local_shards"):
        return all(_finite(shard.tensor) for shard in tensor.local_shards())
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--step", type=int, required=True, help="as the error named it")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    with errors_to_exit():
        folder = RunFolder(options.run)
        config = reading_config(folder, None, None, options.device)
        with process_group(options.device) as process:
            print("\n".join(replay(folder, config, options.step, process)))


if __name__ == "__main__":
    main()
