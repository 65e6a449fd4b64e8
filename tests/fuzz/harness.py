"""Runs the cases of a kind in one child process that may crash or hang without ending the tests.

A kind is a class `KIND` of a test module here: made once with a folder to work in, then asked for
one case after another by index. Everything in a case follows from (kind, index), so a failure is
replayed by its test id:

    FUZZ_CASES=200 pytest "tests/fuzz/test_store.py" -k "[137]"
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CASES = int(os.environ.get("FUZZ_CASES", "20"))
CASE_SECONDS = 20
START_SECONDS = 240

# What a case may come to; everything else fails its test.
ACCEPTED = {
    "error": "a named error",
    "equal": "what the untouched files give",
    "warning": "a counted or logged warning, and what it says was done",
    "verify": "opens, and `verify` refuses it",
    "other": "other valid input: the result is what it says, read in a second way",
}


@dataclass(frozen=True)
class Outcome:
    """What became of a case: a word of `ACCEPTED` or of a failure, the mutation, the message."""

    word: str
    mutation: str
    detail: str = ""


class Runner:
    """A child process that works through the cases of a kind; a new one after a crash or hang."""

    def __init__(self, module: str, folder: Path) -> None:
        self.module, self.folder = module, folder
        self.child: subprocess.Popen[bytes] | None = None
        self.log = folder / "child.log"

    def case(self, index: int) -> Outcome:
        """Run one case and wait for its outcome."""
        if self.child is None:
            self._start()
        assert self.child is not None
        assert self.child.stdin is not None
        self.child.stdin.write(f"{index}\n".encode())
        self.child.stdin.flush()
        return self._answer(CASE_SECONDS)

    def close(self) -> None:
        """End the child."""
        if self.child is not None:
            self.child.kill()
            self.child.communicate()
            self.child = None

    def _start(self) -> None:
        # One core for the child: the machine runs other tests at the same time.
        threads = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
        self.child = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "tests.fuzz.child", self.module],
            cwd=ROOT,
            env={**os.environ, **threads, "FUZZ_FOLDER": str(self.folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("wb"),
        )
        ready = self._answer(START_SECONDS)
        assert ready.word == "ready", f"{self.module}: {ready}"

    def _answer(self, seconds: float) -> Outcome:
        assert self.child is not None
        assert self.child.stdout is not None
        began = time.monotonic()
        # One line an answer, written at once: nothing is ever left in the pipe's buffer.
        readable, _, _ = select.select([self.child.stdout], [], [], seconds)
        line = self.child.stdout.readline() if readable else b""
        if line:
            return Outcome(**json.loads(line))
        word = "crash" if readable else "hang"
        self.close()
        tail = self.log.read_bytes()[-1500:].decode(errors="replace")
        return Outcome(word, "?", f"after {time.monotonic() - began:.1f} s; stderr: {tail}")


def answer(outcome: Outcome) -> bytes:
    """A line of the child's; short enough that the pipe takes it whole."""
    fields = {name: text[:1200] for name, text in asdict(outcome).items()}
    return json.dumps(fields).encode() + b"\n"


@pytest.fixture(scope="module")
def runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """The runner of the asking module's kind."""
    module = request.module.__name__.rsplit(".", 1)[-1]
    made = Runner(f"tests.fuzz.{module}", tmp_path_factory.mktemp(module))
    yield made
    made.close()


def check(runner: Runner, index: int, request: pytest.FixtureRequest) -> None:
    """Run a case and fail unless it came to something acceptable."""
    outcome = runner.case(index)
    kind = runner.module.rsplit("test_", 1)[-1]
    request.node.user_properties.append(("fuzz", (kind, outcome.word)))
    assert outcome.word in ACCEPTED, (
        f"{kind} {index}: {outcome.word} by {outcome.mutation}: {outcome.detail}"
    )
