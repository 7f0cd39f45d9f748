"""One training as by `python -m mtl_accum +experiment=two_task ...`, with the figures to compare."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor, nn

from mtl_accum import predict
from mtl_accum.training.evaluation import evaluate
from mtl_accum.training.loop import Training, scale_learning_rate
from mtl_accum.verify import gradient_difference

__all__ = ["CPU", "SMALLER", "Outcome", "apart", "differences", "train", "usual_epochs", "weights_apart"]

CPU = torch.device("cpu")
_CONF = Path(__file__).resolve().parents[2] / "conf"
_TASKS = ("digit", "denoise")

# The experiment's network is wider and deeper; the study trains some seventy of them.
SMALLER = ["model.trunk.width=16", "model.trunk.depth=3", *(f"model.tasks.{task}.head.depth=2" for task in _TASKS)]


@dataclass(frozen=True)
class Outcome:
    """Results of a training.

    Attributes:
        losses: Losses of every task at every step.
        weights: Parameters and buffers, by name.
        accuracy: Share of the test digits that are classified correctly.
        psnr: PSNR of the restored test images, in dB.
        peak_bytes: Predicted peak of a step (on the CPU it equals the meter); None without `weigh`.
        seconds: Seconds of the training.
    """

    losses: dict[str, list[float]]
    weights: dict[str, Tensor]
    accuracy: float
    psnr: float
    peak_bytes: int | None
    seconds: float

    def same_bits(self, other: Outcome) -> tuple[bool, bool]:
        """Return whether all losses, and all weights, are equal to the last bit."""
        weights = self.weights.items()
        return self.losses == other.losses, all(torch.equal(value, other.weights[name]) for name, value in weights)


def train(overrides: Sequence[str], seed: int, *, nudge: bool = False, weigh: bool = True) -> Outcome:
    """Train `two_task` to its end.

    Args:
        overrides: Overrides of the configuration, as on the command line.
        seed: Seed of weights, order, noise and dropout.
        nudge: Whether to change the last bit of one weight before the first step.
        weigh: Whether to predict the peak of a step, which is the same for every seed.
    """
    with initialize_config_dir(str(_CONF), version_base="1.3"):
        config = compose("config", ["+experiment=two_task", f"seed={seed}", *overrides])
    torch.manual_seed(seed)
    wanted = config.model, config.data, config.edition, config.job.loop
    model, data, edition, loop = (instantiate(part) for part in wanted)
    if nudge:
        _change_a_bit(model)
    optimizer = instantiate(config.optimizer)(model.parameters())
    batch = next(iter(data.train()))
    size = len(batch["digit"])
    scale_learning_rate(
        *(optimizer, loop.lr_scaling),
        batch_size=size,
        accumulate=loop.accumulate,
        base_batch_size=loop.base_batch_size,
    )
    parts = model.trunk, model.tasks, batch
    peak = predict(*parts, optimizer=optimizer, edition=edition, device="cpu").peak_bytes if weigh else None
    torch.manual_seed(seed)
    started = time.perf_counter()
    losses = Training(model, data.train(), [edition], optimizer, loop, device=CPU).run()
    seconds = time.perf_counter() - started
    measures = {name: instantiate(config.measures[name]) for name in ("accuracy", "psnr_restored")}
    scores = evaluate(model, measures, data.test(), device=CPU)
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    return Outcome(losses, weights, scores["accuracy"], scores["psnr_restored"], peak, seconds)


def usual_epochs() -> int:
    """Return the number of epochs of the experiment."""
    with initialize_config_dir(str(_CONF), version_base="1.3"):
        return int(compose("config", ["+experiment=two_task"]).epochs)


def apart(one: Outcome, reference: Outcome, *, steps: int | None = None) -> float:
    """Return the largest relative difference of a task's loss at a step, over the first steps or all."""
    return max(max(of) for of in differences(one, reference)[:steps])


def differences(one: Outcome, reference: Outcome) -> list[tuple[float, ...]]:
    """Return the relative difference of every task's loss, step by step."""
    columns = (zip(one.losses[task], losses, strict=True) for task, losses in reference.losses.items())
    return list(zip(*([_relative(*pair) for pair in column] for column in columns), strict=True))


def weights_apart(one: Outcome, reference: Outcome) -> float:
    """Return the difference of the final weights, by the measure for gradients."""
    return gradient_difference(one.weights, reference.weights)


def _relative(mine: float, theirs: float) -> float:
    return 0.0 if mine == theirs else abs(mine - theirs) / abs(theirs) if theirs else math.inf


@torch.no_grad()
def _change_a_bit(model: nn.Module) -> None:
    weight = next(model.parameters()).view(-1)
    weight[0] = torch.nextafter(weight[0], weight.new_tensor(math.inf))
