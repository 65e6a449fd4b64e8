"""Fuzzing: the runner of each kind, and a line at the end that counts what became of the cases."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.fuzz.harness import runner

__all__ = ["runner"]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Count the outcomes of each kind."""
    counts: dict[str, Counter[str]] = {}
    for word in ("passed", "failed"):
        for report in terminalreporter.stats.get(word, []):
            for name, value in getattr(report, "user_properties", []):
                if name == "fuzz":
                    kind, outcome = value
                    counts.setdefault(kind, Counter())[outcome] += 1
    for kind, found in sorted(counts.items()):
        told = ", ".join(f"{number} {word}" for word, number in sorted(found.items()))
        terminalreporter.write_line(f"fuzz {kind}: {found.total()} cases: {told}")
