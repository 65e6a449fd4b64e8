"""The same result at any width, with the pipeline on or off, and each id on the wire once."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from hydra import initialize_config_dir

from ctr.distributed import process_group
from ctr.train import run
from tests import starter
from tests.ctr import widths


@pytest.fixture(scope="module")
def runs(tiny_store, tmp_path_factory):
    """Folders of the runs by number of processes."""
    found = {}
    for processes in (2, 4):
        found[processes] = tmp_path_factory.mktemp(f"on_{processes}")
        arguments = (str(tiny_store), str(found[processes]), *widths.MODELS)
        done = starter.run(processes, "tests/ctr/widths.py", *arguments)
        assert done.returncode == 0, done.stderr[-4000:]
    return found


@pytest.fixture(scope="module")
def alone(tiny_store, tmp_path_factory):
    out = tmp_path_factory.mktemp("on_1")
    with initialize_config_dir(str(widths.CONF), version_base="1.3"), process_group("cpu") as one:
        for model in widths.MODELS:
            run(widths.config_of(tiny_store, out / model, 1, model), one)
    return out


def losses(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "train"]


@pytest.mark.parametrize("model", widths.MODELS)
@pytest.mark.parametrize("processes", [2, 4])
def test_losses_are_those_of_one_process(model, processes, runs, alone):
    whole = losses(alone / model)
    assert len(whole) == widths.STEPS
    # A model that learns nothing would pass, too.
    assert abs(whole[-2] - whole[0]) > 1e-3
    assert losses(runs[processes] / model) == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize("model", ["muse", "sim_soft"])
def test_the_pipeline_changes_no_loss(model, runs):
    """Of a search over frozen vectors, which runs ahead, and of one over trained tables."""
    assert losses(runs[2] / f"{model}-ahead") == losses(runs[2] / model)


def test_each_distinct_id_travels_once(runs):
    counts = json.loads((runs[2] / "ids.json").read_text())
    for asked, sent in counts:
        assert sent == asked > 0


class Hosts:
    """Two network namespaces with a cable between them: two hosts for all that processes see."""

    NAMES = ("ctr-test-0", "ctr-test-1")
    ADDRESSES = ("10.77.0.1", "10.77.0.2")

    def __enter__(self):
        try:
            for name in self.NAMES:
                self._ip("netns", "add", name)
            ends = ("veth", "netns", self.NAMES[0], "type", "veth", "peer", "veth")
            self._ip("link", "add", *ends, "netns", self.NAMES[1])
            for name, address in zip(self.NAMES, self.ADDRESSES, strict=True):
                self._ip("-n", name, "address", "add", f"{address}/24", "dev", "veth")
                for device in ("lo", "veth"):
                    self._ip("-n", name, "link", "set", device, "up")
        except (OSError, subprocess.CalledProcessError) as error:
            self.__exit__()
            pytest.skip(f"no network namespaces here: {error}")
        return self

    def __exit__(self, *error):
        if shutil.which("ip"):
            for name in self.NAMES:
                subprocess.run(["ip", "netns", "delete", name], capture_output=True)

    def _ip(self, *arguments):
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    def start(self, host, *arguments):
        """torchrun on one host, which meets that of the other."""
        # Half of the cores for each, as for two processes of one host: the number of threads
        # decides how sums are rounded.
        cores = sorted(os.sched_getaffinity(0))
        half = max(1, len(cores) // 2)
        own = ",".join(map(str, cores[host * half :][:half] or cores))
        command = ["ip", "netns", "exec", self.NAMES[host], "taskset", "-c", own, sys.executable]
        command += ["-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={host}"]
        command += [f"--master-addr={self.ADDRESSES[0]}", "--master-port=29511"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "veth"}
        return subprocess.Popen(
            [*command, "--nproc-per-node=1", "tests/ctr/widths.py", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def test_two_hosts_train_as_two_processes_of_one(
    runs, tiny_store, repository, tmp_path, monkeypatch
):
    monkeypatch.chdir(repository)
    monkeypatch.setenv("PYTHONPATH", str(repository))
    with Hosts() as hosts:
        arguments = (str(tiny_store), str(tmp_path), "muse")
        started = [hosts.start(host, *arguments) for host in (0, 1)]
        said = [process.communicate(timeout=240)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)[-4000:]
    assert losses(tmp_path / "muse") == losses(runs[2] / "muse")
