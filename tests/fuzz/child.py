"""The child process of `harness.Runner`: cases' indices on stdin, a line of JSON for each back."""

from __future__ import annotations

import importlib
import os
import resource
import sys
from pathlib import Path
from typing import BinaryIO

from tests.fuzz.harness import Outcome, answer

# A damaged length must not take the machine's memory with it.
_MEMORY = 24 << 30


def main(module: str) -> None:
    """Work through the cases that the parent asks for."""
    # Whatever a library prints goes to the log; the answers keep the pipe to themselves.
    out: BinaryIO = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    kind = importlib.import_module(module).KIND(Path(os.environ["FUZZ_FOLDER"]))
    out.write(answer(Outcome("ready", "")))
    for line in sys.stdin:
        out.write(answer(kind.case(int(line))))


if __name__ == "__main__":
    main(sys.argv[1])
