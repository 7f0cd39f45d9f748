"""Validation between epochs: measures on held-out data, the best epoch, and early stopping."""

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
    """Callback that measures on the validation data every so many epochs.

    The run's `kept["validation"]` is a list of {"epoch", "step", and every measure}, and `kept["best"]` is the best
    entry by the loop's monitor. Training ends when the loop's patience is over without a better one (Prechelt, 1998,
    Early Stopping - But When?).

    Args:
        measures: Measures by name.
        batches: Function that returns the validation data.
        on_measured: Function that is called with the step and the measures' values after each validation.
    """

    def __init__(
        self,
        measures: Mapping[str, EvalMetric],
        batches: Callable[[], Iterable[Any]],
        on_measured: Callable[[int, dict[str, float]], None] = lambda step, values: None,
    ) -> None:
        self._measures, self._batches, self._on_measured = measures, batches, on_measured

    def on_start(self, run: Training) -> None:
        """Check the monitor, and continue a run that had ended if it now has more patience.

        Raises:
            ValueError: The monitor is none of the measures.
        """
        monitor = run.loop.monitor
        if monitor is not None and self._measures and monitor not in self._measures:
            raise ValueError(f"monitor must be one of {', '.join(self._measures)}; found {monitor!r}")
        if run.ended and not self._patience_is_over(run):
            run.ended = ""

    def _patience_is_over(self, run: Training) -> bool:
        best, patience = run.kept.get("best"), run.loop.patience
        return best is not None and patience is not None and self._since(run, best) >= patience

    def _since(self, run: Training, best: dict[str, Any]) -> int:
        """Return the number of validations after the best one."""
        return sum(1 for entry in run.kept["validation"] if entry["step"] > best["step"])

    def on_epoch(self, run: Training) -> None:
        """Validate if it is due."""
        if not run.loop.validate_every or run.position.epoch % run.loop.validate_every:
            return
        with same_random_numbers():
            values = evaluate(run.model, self._measures, self._batches(), device=run.device)
        entry = {"epoch": run.position.epoch, "step": run.position.step, **values}
        history = run.kept.setdefault("validation", [])
        history.append(entry)
        self._on_measured(run.position.step, values)
        if run.loop.monitor is not None:
            self._update_best(run, entry)

    def _update_best(self, run: Training, entry: dict[str, Any]) -> None:
        """Update the best entry, and end training when the patience is over."""
        value, best = entry[str(run.loop.monitor)], run.kept.get("best")
        if run.plateau is not None:
            run.plateau.step(value)
        sign = 1 if run.loop.monitor_mode == "min" else -1
        if best is None or sign * value < sign * best["value"] or math.isnan(best["value"]):
            run.kept["best"] = {"value": value, "step": entry["step"], "epoch": entry["epoch"]}
            return
        if self._patience_is_over(run):
            run.ended = (
                f"{run.loop.monitor} has not become better than {best['value']:.6g} (epoch {best['epoch']}) "
                f"in {self._since(run, best)} validations"
            )
            _LOG.info("training ends: %s", run.ended)
