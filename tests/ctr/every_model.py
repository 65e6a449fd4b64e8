"""Child of test_every_model: trains each model of conf/model and evaluates what it saved.

Under torchrun: `every_model.py STORE OUT MODEL...`. In one start, since a start takes seconds and a
step of a small model milliseconds. Some models are run a second time, as OUT/MODEL_sharded, with
vectors spread over the processes and steps prepared ahead in a thread.
"""

import sys
from pathlib import Path

from hydra import compose, initialize_config_dir

from ctr.config import parse_config
from ctr.distributed import process_group
from ctr.evaluate import EvaluateConfig, run_evaluation
from ctr.run_folder import RunFolder
from ctr.train import run

CONF = Path(__file__).resolve().parents[2] / "conf"

# One whose search reads vectors, and one that reads the picks' and the latest behaviours' only.
SHARDED = {"muse", "sim_hard"}
SHARDED_SETTINGS = ["data.vectors=sharded", "trainer.pipeline=true"]


def main() -> None:
    """Train two steps, evaluate the test split in memory, then from disk: folded and not."""
    store, out, *models = sys.argv[1:]
    with initialize_config_dir(str(CONF), version_base="1.3"), process_group("cpu") as process:
        sharded = [(model, f"{model}_sharded", SHARDED_SETTINGS) for model in sorted(SHARDED)]
        for model, name, more in [(model, model, []) for model in models] + sharded:
            settings = [f"model={model}", f"data.store={store}", f"run={out}/{name}", *more]
            settings += ["data.history_length=64", "data.batch_size=100", "data.valid_split=test"]
            settings += ["trainer.max_steps=2", "trainer.progress=false", "embedding.init_std=0.1"]
            if model == "muse_make":
                settings.append(f"model.content_tower_run={out}/make")
            config = parse_config(compose("train", overrides=settings))
            run(config, process)
            folder = RunFolder(config.run_path)
            folded = [] if more else [("test", True), ("train", True)]
            for split, fold in [*folded, ("test", False)]:
                wanted = EvaluateConfig(split=split, fold=fold, progress=False)
                run_evaluation(folder, config, wanted, process)
                if process.is_first and fold:
                    folder.evaluation(split).rename(folder.path / f"folded_{split}.json")


if __name__ == "__main__":
    main()
