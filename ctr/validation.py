"""What follows from validations: the best is remembered, others slow training down or end it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ctr.config import TrainerConfig
from ctr.distributed import Process, broadcast_first
from ctr.run_log import RunLog

_log = logging.getLogger(__name__)

_LESS_IS_BETTER = ("log_loss",)


@dataclass(frozen=True)
class Standing:
    """What the validations of a run came to so far.

    Attributes:
        best: step and value of the best one, and the metric; None before the first.
        worse: validations since the best one.
        rate_factor: what both learning rates are multiplied with.
    """

    best: dict[str, Any] | None = None
    worse: int = 0
    rate_factor: float = 1.0


class Validation:
    """Validates and decides; all processes alike.

    Args:
        measure: metrics of the validation split, called on all processes; None without a split.
        config: of the loop; process: this one.
    """

    def __init__(
        self,
        measure: Callable[[], dict[str, float]] | None,
        config: TrainerConfig,
        process: Process,
    ) -> None:
        self.measure, self.config, self.process = measure, config, process
        self.standing = Standing()

    @property
    def exhausted(self) -> bool:
        """Whether trainer.patience validations in a row were not better than the best."""
        return self.config.patience is not None and self.standing.worse >= self.config.patience

    def run(self, step: int, log: RunLog) -> None:
        """Validate after `step` steps and take the result in; does nothing without a split."""
        if self.measure is None:
            return
        # Only the first process has the metrics, and all must agree on the best.
        found = broadcast_first(self.measure(), self.process)
        log.write("valid", step, found)
        if self.config.keep_best is not None:
            self._judge(step, found[self.config.keep_best])

    def _judge(self, step: int, value: float) -> None:
        best, metric = self.standing.best, self.config.keep_best
        sign = -1.0 if metric in _LESS_IS_BETTER else 1.0
        rate_factor = self.standing.rate_factor
        # A metric may be undefined, and what is no number is not better than anything.
        if math.isfinite(value) and (best is None or sign * value > sign * best["value"]):
            found = {"step": step, "value": value, "metric": metric}
            self.standing = Standing(found, 0, rate_factor)
        else:
            plateau = 1.0 if self.config.plateau is None else self.config.plateau
            self.standing = Standing(best, self.standing.worse + 1, rate_factor * plateau)

    def stored(self) -> dict[str, Any]:
        """JSON values for the checkpoint; `best` is where the checkpoints' folder looks for it."""
        standing = self.standing
        return {
            "best": standing.best,
            "validation": {"worse": standing.worse, "rate_factor": standing.rate_factor},
        }

    def restore(self, stored: dict[str, Any]) -> None:
        """Go on where `stored` was taken.

        A checkpoint of before there was a patience has no count and begins one. Another metric
        than that of the best validation begins anew, since their values cannot be compared.
        """
        kept = stored.get("validation", {})
        best = stored["best"]
        self.standing = Standing(best, kept.get("worse", 0), kept.get("rate_factor", 1.0))
        metric = self.config.keep_best
        if best is not None and metric is not None and best.get("metric", metric) != metric:
            _log.warning(
                "trainer.keep_best=%s: the best checkpoint so far, of step %d, was chosen by %s; "
                "the choice begins anew",
                *(metric, best["step"], best["metric"]),
            )
            self.standing = Standing(rate_factor=self.standing.rate_factor)
