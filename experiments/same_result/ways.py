"""Trainings of one seed: every edition, and every batch size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from experiments.same_result.training import SMALLER, Outcome, apart, differences, train, weights_apart

__all__ = ["BASE", "BATCHES", "EDITIONS", "LARGER", "NUDGED", "REFERENCE", "Plan", "batches", "editions", "one_thread"]

REFERENCE, NUDGED = "summed", "summed, one weight's last bit changed"

# Overrides of each edition, and whether DESIGN.md's section 3 claims its gradient to the last bit: two tasks, heads
# that read the representation once and draw no random numbers, no gradient before the step.
EDITIONS: dict[str, tuple[list[str], bool]] = {
    REFERENCE: (["edition=summed"], True),
    "split": (["edition=split"], True),
    "split, reverse order": (["edition=split", "edition.order=reverse"], True),
    "checkpointed (split)": (["edition=checkpointed"], False),
    "offloaded (split)": (["edition=offloaded"], False),
    "per_task": (["edition=per_task"], False),
    "cached": (["edition=cached", "edition.chunk_size=16"], False),
    "accumulated (split), 4 pieces": (["edition=accumulated", "edition.micro_batches=4"], False),
    NUDGED: (["edition=summed"], False),
}

LARGER = 8
BASE = "the base batch"
BATCHES: dict[str, tuple[str, bool] | None] = {  # the rule of the learning rate, and whether it is warmed up
    BASE: None,
    f"{LARGER} times, none": ("none", False),
    f"{LARGER} times, sqrt, warm-up": ("sqrt", True),
    f"{LARGER} times, linear": ("linear", False),
    f"{LARGER} times, linear, warm-up": ("linear", True),
}


@dataclass(frozen=True)
class Plan:
    """Size of the study.

    Attributes:
        seeds: Seeds of every training.
        epochs: Number of epochs of every training.
        batch: Number of samples in a batch, where editions are compared.
        base_batch: Number of samples in a batch, where batches are compared.
        warmup_epochs: Number of warm-up epochs, where there is a warm-up.
        network: Overrides that make the network smaller.
    """

    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    epochs: int = 40
    batch: int = 64
    base_batch: int = 32
    warmup_epochs: int = 1
    network: Sequence[str] = tuple(SMALLER)


def one_thread() -> None:
    """Set one thread in a process of the study: the same operations in the same order."""
    torch.set_num_threads(1)


def editions(plan: Plan, seed: int) -> dict[str, dict[str, Any]]:
    """Train with every edition from a seed, and compare with the summed loss."""
    outcomes: dict[str, dict[str, Any]] = {}
    common = [f"epochs={plan.epochs}", f"data.batch_size={plan.batch}", *plan.network]
    reference = None
    for name, (overrides, _) in EDITIONS.items():
        outcome = train([*common, *overrides], seed, nudge=name == NUDGED, weigh=seed == plan.seeds[0])
        reference = reference or outcome
        same_losses, same_weights = outcome.same_bits(reference)
        steps = [max(of) for of in differences(outcome, reference)]
        outcomes[name] = {
            **_scores(outcome, plan.epochs),
            "same_losses": same_losses,
            "same_weights": same_weights,
            "losses_apart_first_epoch": apart(outcome, reference, steps=len(steps) // plan.epochs),
            "losses_apart": max(steps),
            "losses_apart_by_epoch": [max(part) for part in _epochs(steps, plan.epochs)],
            "weights_apart": weights_apart(outcome, reference),
        }
    return outcomes


def batches(plan: Plan, seed: int) -> dict[str, dict[str, Any]]:
    """Train with every batch size and learning rate rule from a seed."""
    common = ["edition=split", f"epochs={plan.epochs}", f"data.batch_size={plan.base_batch}", *plan.network]
    outcomes, steps = {}, 0
    for name, way in BATCHES.items():
        overrides = list[str]()
        if way is not None:
            rule, warm = way
            overrides += [f"accumulate={LARGER}", f"lr_scaling={rule}", f"base_batch_size={plan.base_batch}"]
            overrides += [f"warmup_steps={plan.warmup_epochs * steps}"] if warm else []
        outcomes[name] = _scores(train([*common, *overrides], seed, weigh=False), plan.epochs)
        steps = int(outcomes[name]["steps"]) // plan.epochs
    return outcomes


def _scores(outcome: Outcome, epochs: int) -> dict[str, Any]:
    by_epoch = {task: [fmean(part) for part in _epochs(of, epochs)] for task, of in outcome.losses.items()}
    return {
        "accuracy": outcome.accuracy,
        "psnr": outcome.psnr,
        "peak_bytes": outcome.peak_bytes,
        "seconds": outcome.seconds,
        "steps": len(next(iter(outcome.losses.values()))),
        "last_epoch": {task: of[-1] for task, of in by_epoch.items()},
        "losses_by_epoch": by_epoch,
    }


def _epochs(values: Sequence[float], epochs: int) -> list[Sequence[float]]:
    size = len(values) // epochs
    return [values[start : start + size] for start in range(0, len(values), size)]
