"""Exactness checks of a plan: schedules compared with `SummedLoss` on a few samples of the user's batch."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from mtl_accum._torch_pytree import tree_map_only
from mtl_accum.editions import (
    Accumulated,
    AsLoss,
    Cached,
    Checkpointed,
    Edition,
    Offloaded,
    PerTask,
    Split,
    SummedLoss,
    Tasks,
)
from mtl_accum.editions._engine import Piece, equal_ranges, read_counts, take
from mtl_accum.memory import TrainingStep, free_after_failure, is_out_of_memory
from mtl_accum.planning._notation import format_edition
from mtl_accum.planning._schedule_space import HEAD_CHUNKS, TRUNK_CHUNKS
from mtl_accum.planning._simplicity import in_small
from mtl_accum.verify import CheckedEdition, examine, without_a_trace

__all__ = ["ExactnessChecks", "basic_kinds"]

_FEW = 5  # samples: pieces of three and two
_FEW_CUT_TWICE = 11  # samples: pieces of six and five, which are cut again, none to a single sample
_WINDOWS = 8  # positions in the batch that are tried for samples with targets
_RUNS = 8  # steps of a network that `check` needs for one schedule
_PATIENCE = 30.0  # seconds for one schedule
_HURRY = 10.0  # seconds for all checks of schedules that are not about to be chosen
_NOT_CHECKED = "not checked: "
_POSTPONED = _NOT_CHECKED + "for lack of time; job=check does it"


def basic_kinds(samples: int) -> dict[str, Edition]:
    """Return a schedule of every kind that others are made of, by the name of the kind in `left_out`.

    Args:
        samples: Number of samples of the batch; 1 if it cannot be cut.
    """
    kinds: dict[str, Edition] = {"PerTask": PerTask(), "Cached": Cached(samples), "Checkpointed": Checkpointed(Split())}
    if samples > 1:
        kinds |= {
            TRUNK_CHUNKS: Cached(-(-samples // 2)),
            HEAD_CHUNKS: Split(head_chunks=2),
            "Accumulated": Accumulated(Split(), 2),
        }
    return kinds


class ExactnessChecks:
    """Compares losses, gradients and buffers of a network's schedules with those of `SummedLoss`, each kind once.

    Args:
        step: Step of the network, on its device.
        samples: Number of samples of the batch; 1 if it cannot be cut.
        room: Bytes that a check may take, for the network and its copy in float64.
        needs: Bytes that `SummedLoss` needs, by number of samples.

    Attributes:
        verdicts: Difference from `SummedLoss`, or the reason why it is not known, by the schedule on the few samples.
    """

    def __init__(self, step: TrainingStep, samples: int, room: int, needs: Mapping[int, int]) -> None:
        self._step, self._samples, self._room, self._needs = step, samples, room, needs
        self._wrong: dict[str, str] = {}
        self._batches: dict[int, Any] = {}
        self._seconds: dict[int, float] = {}  # of a step of SummedLoss, by number of samples
        self._spent = 0.0
        self.verdicts: dict[str, str] = {}

    @staticmethod
    def sizes(samples: int) -> set[int]:
        """Return the numbers of samples that checks run on."""
        return {min(samples, _FEW), min(samples, _FEW_CUT_TWICE)}

    @staticmethod
    def few(edition: Edition, samples: int) -> int:
        """Return the number of samples that the check of a schedule runs on."""
        return min(samples, _FEW_CUT_TWICE if _is_cut_twice(edition) else _FEW)

    def inexact(self, editions: Iterable[Edition], *, hurry: bool) -> dict[Edition, str]:
        """Check schedules whose kinds were not checked yet, and return those that are not exact.

        Args:
            editions: Schedules to check.
            hurry: Whether to postpone checks once they have taken some seconds, for schedules that are not about to be
                chosen.

        Returns:
            Reasons by schedule; schedules that are exact, or that could not be checked, are missing.
        """
        reasons = {}
        for edition in editions:
            if _is_whole(edition):
                continue
            few = self.few(edition, self._samples)
            small = in_small(edition, self._samples, few)
            name = format_edition(small)
            late = hurry and self._spent > _HURRY
            if self.verdicts.get(name, _POSTPONED) == _POSTPONED:
                self.verdicts[name] = _POSTPONED
                if not late:
                    started = time.perf_counter()
                    self._check(small, name, few)
                    self._spent += time.perf_counter() - started
            if name in self._wrong:
                reasons[edition] = self._wrong[name]
        return reasons

    def pending(self, editions: Iterable[Edition]) -> set[Edition]:
        """Return the schedules whose check was postponed for lack of time."""
        small = {edition: in_small(edition, self._samples, self.few(edition, self._samples)) for edition in editions}
        return {
            edition for edition, checked in small.items() if self.verdicts.get(format_edition(checked)) == _POSTPONED
        }

    def _check(self, edition: Edition, name: str, few: int) -> None:
        reason = self._obstacle(few)
        if reason:
            self.verdicts[name] = _NOT_CHECKED + reason
            return
        try:
            checked = self._checked(edition, few)
            if checked.failure and is_out_of_memory(RuntimeError(checked.failure)):
                reason = "memory ran out"
        except Exception as error:
            if is_out_of_memory(error):
                reason = "memory ran out"
            else:
                reason = f"the check failed with {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        if reason:
            free_after_failure(self._step.device, reason)
            self.verdicts[name] = _NOT_CHECKED + reason
            inner = _without_trunk_wrapper(edition)
            if inner != edition and not _is_whole(inner):
                self._copy_verdict(inner, name, few)
            return
        if checked.undecided and checked.verdict == "not decided":
            self.verdicts[name] = _NOT_CHECKED + checked.undecided.removeprefix("not decided: ")
        elif checked.passed() and not checked.refusal:
            self.verdicts[name] = f"{_worst(checked):.1e} from SummedLoss on {few} samples"
        else:
            self.verdicts[name] = "not exact, left out"
            self._wrong[name] = checked.refusal or checked.failure or _difference(checked, few)

    def _copy_verdict(self, inner: Edition, name: str, few: int) -> None:
        """Take the verdict of the schedule inside a trunk wrapper, which has a check of its own."""
        inside = format_edition(inner)
        if self.verdicts.get(inside, _POSTPONED) == _POSTPONED:
            self._check(inner, inside, few)
        self.verdicts[name] = f"as {inside}"
        if inside in self._wrong:
            self._wrong[name] = self._wrong[inside]

    def _obstacle(self, few: int) -> str:
        """Return why a check on a few samples is impossible (memory, time, a failing step); empty if it is not."""
        needed = 3 * self._needs[few]  # the network, and its copy in float64 with twice the bytes
        if needed > self._room:
            return f"{few} samples need {needed >> 20} MiB, {self._room >> 20} MiB are free"
        if few not in self._batches:
            self._batches[few] = self._sample(few)
            started = time.perf_counter()
            try:
                with without_a_trace(self._step):
                    self._summed(few)
            except Exception as error:
                free_after_failure(self._step.device, str(error))
                return f"SummedLoss fails on {few} samples with {str(error).partition(chr(10))[0]}"
            self._seconds[few] = time.perf_counter() - started
        if few not in self._seconds:
            return f"SummedLoss fails on {few} samples"
        if self._seconds[few] * _RUNS > _PATIENCE:
            return f"it would take {self._seconds[few] * _RUNS:.0f} s"
        return ""

    def _summed(self, few: int) -> None:
        step = self._step
        SummedLoss().forward_backward(step.trunk, step.tasks, _copy(self._batches[few]))
        step.zero_grad()

    def _checked(self, edition: Edition, few: int) -> CheckedEdition:
        step = self._step
        with without_a_trace(step):
            self._summed(few)  # gives state that a trunk carries from batch to batch the size of the few samples
            report = examine(
                step.trunk, step.tasks, self._batches[few], optimizer=step.optimizer, editions={"checked": edition}
            )
        return report.editions["checked"]

    def _sample(self, few: int) -> Any:
        """Copy neighbouring samples, if possible with targets of all tasks in both pieces, unequally many of them."""
        batch, samples = self._step.batch, self._samples
        if samples <= few:
            return _copy(batch)
        stride = max(1, (samples - few) // _WINDOWS)
        windows = [take(batch, (start, start + few)) for start in range(0, samples - few + 1, stride)]
        return _copy(max(windows, key=lambda window: _quality(self._step.tasks, window, few)))


def _copy(batch: Any) -> Any:
    """Copy the tensors of a batch, since a forward may write into them."""
    return tree_map_only(Tensor, lambda t: t.detach().clone().requires_grad_(t.requires_grad), batch)


def _quality(tasks: Tasks, batch: Any, few: int) -> tuple[int, int]:
    """Return the number of tasks with targets in both halves, and of those with unequally many in the two."""
    try:
        cuts = equal_ranges(few, 2)
        counts = read_counts(tasks, [Piece(cut, take(batch, cut)) for cut in cuts])
    except Exception:  # any error of a user's count; the check itself reports it
        return 0, 0
    rows = [[count[cut] for cut in cuts] for count in counts.values()]
    return sum(all(row) for row in rows), sum(len(set(row)) > 1 for row in rows)


def _without_trunk_wrapper(edition: Any) -> Any:
    """Return a schedule without its outermost checkpointing or offloading of the trunk."""
    if isinstance(edition, AsLoss):
        return dataclasses.replace(edition, edition=_without_trunk_wrapper(edition.edition))
    return edition.edition if isinstance(edition, Checkpointed | Offloaded) else edition


def _is_whole(edition: Any) -> bool:
    """Return whether a schedule runs everything once, uncut, and attaches no gradients to a loss."""
    if isinstance(edition, AsLoss):
        return isinstance(edition.edition, SummedLoss)
    return isinstance(edition, SummedLoss) or (isinstance(edition, Split) and edition.head_chunks == 1)


def _is_cut_twice(edition: Edition) -> bool:
    """Return whether a schedule cuts its micro-batches again."""
    inner: Edition | None = edition
    while inner is not None:
        if isinstance(inner, Accumulated) and not _is_whole(inner.inner):
            return True
        inner = inner.inner
    return False


def _difference(checked: CheckedEdition, few: int) -> str:
    missing = f"no gradient for {', '.join(checked.missing)}" if checked.missing else ""
    reason = checked.reason or missing
    return f"differs from SummedLoss by {_worst(checked):.1e} on {few} samples{f': {reason}' if reason else ''}"


def _worst(checked: CheckedEdition) -> float:
    difference = checked.decisive
    return 0.0 if difference is None else max(difference.losses, difference.gradients, difference.buffers)
