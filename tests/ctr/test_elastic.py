"""Runs that torchrun starts again by itself: after a process died, and after a host was lost."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tools.chaos.ending import (
    count_samples,
    damaged_loads,
    differences,
    loaded_steps,
    read_ending,
    read_samples,
)
from tools.chaos.points import Point
from tools.chaos.runs import EPOCHS, STEP_SAMPLES, Runs
from tools.chaos.start import ROOT, mark_of, start, worker

pytestmark = pytest.mark.slow

# Seconds: a host that says nothing for two of them is lost, and none is waited for any longer
# than the first start of all may take.
QUICK = "keep_alive_interval=1,keep_alive_max_attempt=2,last_call_timeout=8"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("elastic") / "runs")


def command(runs, folder, batch_size, point=None):
    """Arguments of python for a training process; it says nothing of going on with a run."""
    folder.mkdir(exist_ok=True)
    arguments = runs.arguments(folder / "run", batch_size)
    arguments.remove("resume=auto")
    return worker(folder, "point", point, arguments)


def test_torchrun_starts_a_killed_process_again(runs):
    folder = runs.folder / "restarted"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nnodes=1"]
    launcher += ["--nproc-per-node=2", "--max-restarts=3"]
    point = Point("backward", "torch:Tensor.backward", "before", call=11, rank=1)
    program = command(runs, folder, STEP_SAMPLES // 2, point)
    assert start(folder / "log", [*launcher, *program]) == 0, (folder / "log").read_text()[-4000:]
    assert mark_of(folder, "point").exists()
    assert loaded_steps(folder) in ([8], [9])
    assert damaged_loads(folder) == 0
    assert differences(read_ending(folder / "run"), runs.whole(2)) == []


@contextmanager
def agents(folder, launchers):
    """Start a torchrun for each (prefix, arguments), with its output in a file; none stays."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    started = []
    try:
        for number, (prefix, arguments) in enumerate(launchers):
            with (folder / f"agent-{number}.log").open("w") as log:
                process = subprocess.Popen(
                    [*prefix, sys.executable, "-W", "ignore", *arguments],
                    cwd=ROOT,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            started.append(process)
        yield started
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(60)


def launcher(endpoint, nodes, first):
    """The torchrun of one host; the first one keeps the store that they meet at."""
    return [
        *("-m", "torch.distributed.run", f"--nnodes={nodes}", "--nproc-per-node=1"),
        *("--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}", "--rdzv-id=test"),
        *(f"--rdzv-conf={QUICK},is_host={int(first)}", "--max-restarts=3"),
    ]


def free_port():
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        return there.getsockname()[1]


def said(folder):
    return "\n".join(path.read_text()[-4000:] for path in sorted(folder.glob("agent-*.log")))


def test_sigterm_to_one_of_two_stops_both_and_resumes(runs):
    """The process that is asked tells the other, so that the checkpoint is of one step."""
    folder = runs.folder / "stopped"
    folder.mkdir()
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    torchrun += runs.arguments(folder / "run", STEP_SAMPLES // 2)
    log = folder / "run" / "samples" / "rank-0001.jsonl"
    with agents(folder, [([], torchrun)]) as (agent,):
        deadline = time.monotonic() + 60
        while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(process_of_rank(agent.pid, 1), signal.SIGTERM)
        assert agent.wait(60) != 0
    assert "stopped by SIGTERM after step" in said(folder)
    assert not (folder / "run" / "checkpoints" / "step-000000016").exists()
    assert start(folder / "log", torchrun) == 0
    assert differences(read_ending(folder / "run"), runs.whole(2)) == []


def process_of_rank(agent, rank):
    """The process that a torchrun started as this rank."""
    started = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    for process in started:
        if f"RANK={rank}".encode() in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
            return int(process)
    raise AssertionError(f"none of {started} is rank {rank}")


def test_the_other_host_goes_on_alone(runs):
    """Of two torchruns, one is lost with its process: the other ends the run with one process."""
    folder = runs.folder / "alone"
    point = Point("lost", "torch:Tensor.backward", "after", call=7, rank=-1, host=True)
    endpoint = f"localhost:{free_port()}"
    commands = [
        [*launcher(endpoint, "1:2", first=True), *command(runs, folder, 48)],
        [*launcher(endpoint, "1:2", first=False), *command(runs, folder, 48, point)],
    ]
    with agents(folder, [([], arguments) for arguments in commands]) as (stays, lost):
        assert lost.wait(60) == -9, said(folder)
        assert stays.wait(90) == 0, said(folder)
    assert mark_of(folder, "point").exists()
    assert loaded_steps(folder) in ([3], [6])
    assert count_samples(read_samples(folder / "run"), runs.split_size, EPOCHS) == (0, 0)
    last = read_ending(folder / "run").progress
    assert last[max(last)]["world_size"] == 1


@pytest.fixture
def hosts():
    """Two network namespaces that see each other and nothing else, as prefixes of a command."""
    names = [f"ctr-{os.getpid()}-{side}" for side in "ab"]
    links = [f"ctr{os.getpid() % 10**8}{side}" for side in "ab"]

    def ip(*arguments):
        subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)

    if shutil.which("ip") is None:
        pytest.skip("no network namespaces here: there is no ip command")
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", links[0], "type", "veth", "peer", "name", links[1])
            for side, (name, link) in enumerate(zip(names, links, strict=True), 1):
                ip("link", "set", link, "netns", name)
                ip("-n", name, "address", "add", f"10.99.0.{side}/24", "dev", link)
                ip("-n", name, "link", "set", link, "up")
                ip("-n", name, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        # See docs/reliability.md: a host that comes back would wait for the others in vain.
        store = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"
        yield [
            ["ip", "netns", "exec", name, "env", f"GLOO_SOCKET_IFNAME={link}", store]
            for name, link in zip(names, links, strict=True)
        ]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=20)


def test_a_lost_host_that_comes_back_goes_on(runs, hosts):
    """Two hosts as far as the network goes; the second one is lost and started again."""
    folder = runs.folder / "hosts"
    point = Point("lost", "torch:Tensor.backward", "after", call=11, rank=-1, host=True)
    torchrun = [
        [*launcher("10.99.0.1:29500", "2", first=place == 1), f"--local-addr=10.99.0.{place}"]
        for place in (1, 2)
    ]
    stays = (hosts[0], [*torchrun[0], *command(runs, folder, 48)])
    lost = (hosts[1], [*torchrun[1], *command(runs, folder, 48, point)])
    with agents(folder, [stays, lost]) as (there, gone):
        gone.wait(60)
        assert mark_of(folder, "point").exists(), said(folder)
        (folder / "again").mkdir()
        with agents(folder / "again", [lost]) as (back,):
            assert there.wait(90) == 0, said(folder)
            assert back.wait(30) == 0
    assert loaded_steps(folder) in ([8], [9])
    ending = read_ending(folder / "run")
    assert count_samples(ending.samples, runs.split_size, EPOCHS) == (0, 0)
    losses = [row["loss"] for row in ending.rows if row["kind"] == "train"]
    whole = [row["loss"] for row in runs.whole(2).rows if row["kind"] == "train"]
    assert losses == pytest.approx(whole, abs=1e-6)
