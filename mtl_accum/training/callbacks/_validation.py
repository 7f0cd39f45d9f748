"""Validation between epochs: measures on held-out data, the best one so far, and when to stop."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mtl_accum._state import same_random_numbers
from mtl_accum.training.evaluation import EvalMetric, evaluate
from mtl_accum.training.loop import Callback, Training

__all__ = ["ValidationCallback"]

_LOG = logging.getLogger(__name__)


class ValidationCallback(Callback):
    """Measures on the validation data every so many epochs; what it finds stands in the run's `kept`.

    `kept["validation"]` is a list of {"epoch", "step", and every measure}; `kept["best"]` the best of them by the
    loop's monitor. Without a better one for the loop's patience, training ends (Prechelt, 1998, Early Stopping - But
    When?).

    Args:
        measures: by name.
        batches: the validation data, anew at every call.
        on_measured: told the step and what was found.
    """

    def __init__(
        self,
        measures: Mapping[str, EvalMetric],
        batches: Callable[[], Iterable[Any]],
        on_measured: Callable[[int, dict[str, float]], None] = lambda step, found: None,
    ) -> None:
        self._measures, self._batches, self._on_measured = measures, batches, on_measured

    def on_start(self, run: Training) -> None:
        """The monitor must be one of the measures; what has ended may go on with more patience."""
        monitor = run.loop.monitor
        if monitor is not None and self._measures and monitor not in self._measures:
            raise ValueError(f"monitor must be one of {', '.join(self._measures)}; found {monitor!r}")
        if run.ended and not self._is_over(run):
            run.ended = ""

    def _is_over(self, run: Training) -> bool:
        best, patience = run.kept.get("best"), run.loop.patience
        return best is not None and patience is not None and self._since(run, best) >= patience

    def _since(self, run: Training, best: dict[str, Any]) -> int:
        """Validations after the best one."""
        return sum(1 for seen in run.kept["validation"] if seen["step"] > best["step"])

    def on_epoch(self, run: Training) -> None:
        """Measure, if it is time."""
        if not run.loop.validate_every or run.position.epoch % run.loop.validate_every:
            return
        with same_random_numbers():
            found = evaluate(run.model, self._measures, self._batches(), device=run.device)
        entry = {"epoch": run.position.epoch, "step": run.position.step, **found}
        history = run.kept.setdefault("validation", [])
        history.append(entry)
        self._on_measured(run.position.step, found)
        if run.loop.monitor is not None:
            self._look_at(run, entry)

    def _look_at(self, run: Training, entry: dict[str, Any]) -> None:
        value, best = entry[str(run.loop.monitor)], run.kept.get("best")
        if run.plateau is not None:
            run.plateau.step(value)
        sign = 1 if run.loop.monitor_mode == "min" else -1
        if best is None or sign * value < sign * best["value"] or math.isnan(best["value"]):
            run.kept["best"] = {"value": value, "step": entry["step"], "epoch": entry["epoch"]}
            return
        if self._is_over(run):
            run.ended = (
                f"{run.loop.monitor} has not become better than {best['value']:.6g} (epoch {best['epoch']}) "
                f"in {self._since(run, best)} validations"
            )
            _LOG.info("training ends: %s", run.ended)
