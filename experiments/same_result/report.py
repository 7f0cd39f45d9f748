"""Tables and sentences of the study of equal results, computed from the figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from experiments.same_result.training import usual_epochs
from experiments.same_result.ways import BASE, BATCHES, EDITIONS, LARGER, NUDGED, REFERENCE, Plan
from experiments.study import MIB, Report

__all__ = ["QUESTION", "TITLE", "fill"]

TITLE = "Does every edition train to the same end?"
QUESTION = (
    "One step's gradient is the same; is the trained network, after all steps? And what does an effective batch "
    f"that is {LARGER} times as large do, with each rule for the learning rate?"
)
Seeds = Sequence[dict[str, Any]]
_WEIGHTS = "weights_apart"
_APART = ("losses_apart_first_epoch", "losses_apart", _WEIGHTS)
_ROUNDING = 1e-4  # of a loss; a float32 has 6e-8, and an epoch some steps to amplify it
_SCORES = ("accuracy", "psnr")


def fill(page: Report, plan: Plan, trained: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Write the page.

    Returns:
        What stands in `results.json`, and what should not be.
    """
    page.text(
        f"The data and the model of `+experiment=two_task` (trunk and heads narrower and shallower: "
        f"`{' '.join(plan.network)}`), float32, one thread a process, {plan.epochs} epochs, seeds "
        f"{', '.join(map(str, plan.seeds))}; all trainings took {trained['took_seconds'] / 60:.0f} minutes in two "
        "processes beside other work. A seed sets weights, order, noise and dropout: the editions of a seed see the "
        "same. The network has GroupNorm: no edition is refused. Its one dropout layer draws the same masks whether "
        "the batch is cut or not; with two such layers `cached` and `accumulated` would draw others, equally valid."
    )
    broken = _editions(page, plan, trained["editions"])
    _batches(page, plan, trained["batches"])
    apart = [of for name, of in trained["editions"].items() if name != NUDGED]
    results = {
        "seeds": len(plan.seeds),
        "farthest_edition": {key: max(_largest(seeds, key) for seeds in apart) for key in _APART},
        "nudged": _summary(trained["editions"][NUDGED]),
        "plan": {**vars(plan), "seeds": list(plan.seeds), "network": list(plan.network)},
        "took_seconds": trained["took_seconds"],
        "editions": {
            name: {"overrides": EDITIONS[name][0], "claimed": EDITIONS[name][1], **_summary(of), "seeds": _kept(of)}
            for name, of in trained["editions"].items()
        },
        "batches": {name: {**_summary(of), "seeds": _kept(of)} for name, of in trained["batches"].items()},
    }
    return results, broken


def _editions(page: Report, plan: Plan, trained: dict[str, Seeds]) -> list[str]:
    page.section("The editions", f"A batch has {plan.batch} samples, {trained[REFERENCE][0]['steps']} steps.")
    page.text(
        "Identical bits: of the losses at every step and of the final weights, held against `summed` of the same seed "
        "with `torch.equal`. Losses: the largest relative difference of a task's loss at a step, over all seeds. "
        "Weights: the largest over the parameters of ||w - w_ref|| / max(||w_ref||, 0.001 ||whole w_ref||). Accuracy "
        "and PSNR are those of the test data, mean ± standard deviation over the seeds; peak: live tensors in a step."
    )
    head = ["edition", "claimed", "identical bits", "losses apart, first epoch", "over the training", "weights apart"]
    page.table([[*head, "accuracy", "PSNR, dB", "peak"], *(_edition(name, seeds) for name, seeds in trained.items())])
    page.picture("curves.png", "losses of all editions over each other, and their distance from the summed loss")
    same = [name for name, seeds in trained.items() if name != REFERENCE and _same(seeds)]
    others = [name for name in trained if name not in (REFERENCE, NUDGED, *same)]
    claimed = [name for name, (_, of) in EDITIONS.items() if of]
    broken = [name for name in claimed if not _same(trained[name])]
    odd = [name for name in others if _largest(trained[name], _APART[0]) > _ROUNDING]
    reference = trained[REFERENCE]
    scale = _largest(trained[NUDGED], "weights_apart")
    nudged_losses = _largest(trained[NUDGED], "losses_apart")
    farthest = max(others, key=lambda n: _largest(trained[n], _WEIGHTS))
    first, losses, weights = (max(_largest(trained[name], key) for name in others) for key in _APART)
    moved, moved_psnr = (max(abs(a - b) for n in others for a, b in _pairs(trained[n], reference, k)) for k in _SCORES)
    page.items(
        "**To the last bit** the training with the summed loss, in every seed, every loss and every weight: "
        f"{_names(same)}. Claimed for {_names([name for name in claimed if name != REFERENCE])}.",
        *(f"**Claimed and not so: {name}.**" for name in broken),
        f"**By rounding** only: {_names(others)} add the same numbers in another order. The "
        f"losses are at most {first:.1e} apart in the first epoch and {losses:.1e} over the "
        f"training; the weights end at most {weights:.1e} apart (`{farthest}`).",
        "**For scale**: the summed loss itself, with the last bit of one weight changed before the first step, ends "
        f"{scale:.1e} away in its weights, and up to {nudged_losses:.1e} in its losses: the "
        f"farthest edition's weights are {weights / scale:.2f} times as far.",
        f"**On the test data** these editions move a seed's accuracy by at most {100 * moved:.2f} points and its PSNR "
        f"by {moved_psnr:.3f} dB; the standard deviation over the seeds is {100 * _spread(reference, 'accuracy'):.2f} "
        f"points and {_spread(reference, 'psnr'):.3f} dB.",
    )
    page.items(*(f"**More than rounding in the first epoch: `{name}`.**" for name in odd))
    wrong = [f"{name}: claimed to the last bit, and not so" for name in broken]
    return wrong + [f"{name}: more than rounding apart in the first epoch" for name in odd]


def _batches(page: Report, plan: Plan, trained: dict[str, Seeds]) -> None:
    base = trained[BASE]
    page.section(
        f"An effective batch {LARGER} times as large",
        f"`edition=split`, a base batch of {plan.base_batch} at the experiment's learning rate; then "
        f"`accumulate={LARGER}` with each `lr_scaling`, where said with `warmup_steps` of {plan.warmup_epochs} epochs. "
        f"The same number of epochs: {base[0]['steps']} steps by the base batch, "
        f"{trained[list(BATCHES)[1]][0]['steps']} by the larger one. Loss: of training, mean of the last epoch. The "
        "difference is that of the same seed, its mean ± its standard error.",
    )
    head = ["a step", "steps", "loss of digit", "loss of denoise", "accuracy", "difference", "PSNR, dB", "difference"]
    page.table([head, *(_batch(name, seeds, base) for name, seeds in trained.items())])
    page.picture("batches.png", "losses by epoch and test scores of every size of a step and rule")
    larger = {name: seeds for name, seeds in trained.items() if name != BASE}
    by_accuracy = sorted(larger, key=lambda name: -_mean(larger[name], "accuracy"))
    best, worst = by_accuracy[0], by_accuracy[-1]
    page.items(
        *(f"`{name}`: {_verdict(trained[name], base)}." for name in larger),
        f"Of the larger batches `{best}` names most digits ({_share(larger[best], 'accuracy')}), `{worst}` fewest "
        f"({_share(larger[worst], 'accuracy')}).",
        _restores(larger, base),
    )
    page.text(
        f"What this does not say: {_unfinished(plan)}it is one small network and one optimizer (AdamW); the larger "
        f"batch takes about {LARGER} times fewer steps in the same epochs; the learning rate was tuned for neither. "
        "Accumulation gives the larger batch's gradient; whether a larger batch is wanted is another question."
    )


def _unfinished(plan: Plan) -> str:
    if plan.epochs >= usual_epochs():
        return ""
    return (
        f"{plan.epochs} epochs are not the end of this training (the experiment itself runs {usual_epochs()}), and "
        "fewer steps cost most at its beginning; "
    )


def _restores(larger: dict[str, Seeds], base: Seeds) -> str:
    back = [
        name
        for name, seeds in larger.items()
        if all(_compared(seeds, base, key)[0] >= -2 * _compared(seeds, base, key)[1] for key in _SCORES)
    ]
    if back:
        return f"Not worse than the base batch in both measures, by two standard errors: {_names(back)}."
    return "In the same number of epochs none of the larger batches reaches the base batch in both measures."


def _verdict(seeds: Seeds, base: Seeds) -> str:
    words = []
    for key, what, factor, unit in (("accuracy", "accuracy", 100, "points"), ("psnr", "PSNR", 1, "dB")):
        mean, error = _compared(seeds, base, key)
        how = "lower" if mean < -2 * error else "higher" if mean > 2 * error else "not told apart"
        words.append(f"{what} {how} ({factor * mean:+.2f} {unit})")
    return ", ".join(words)


def _edition(name: str, seeds: Seeds) -> list[str]:
    claimed = "reference" if name == REFERENCE else "yes" if EDITIONS[name][1] else "no"
    return [
        *(name, claimed, f"{_identical(seeds)} of {len(seeds)} seeds"),
        *(_figure(_largest(seeds, key)) for key in _APART),
        *(_share(seeds, "accuracy"), f"{_mean(seeds, 'psnr'):.3f} ± {_spread(seeds, 'psnr'):.3f}"),
        f"{seeds[0]['peak_bytes'] / MIB:.1f} MiB",
    ]


def _batch(name: str, seeds: Seeds, base: Seeds) -> list[str]:
    losses = [fmean(seed["last_epoch"][task] for seed in seeds) for task in ("digit", "denoise")]
    (accuracy, accuracy_error), (psnr, psnr_error) = (_compared(seeds, base, key) for key in _SCORES)
    return [
        *(name, str(seeds[0]["steps"]), *(f"{loss:.3g}" for loss in losses), _share(seeds, "accuracy")),
        "–" if name == BASE else f"{100 * accuracy:+.2f} ± {100 * accuracy_error:.2f} %",
        f"{_mean(seeds, 'psnr'):.2f} ± {_spread(seeds, 'psnr'):.2f}",
        "–" if name == BASE else f"{psnr:+.2f} ± {psnr_error:.2f} dB",
    ]


def _summary(seeds: Seeds) -> dict[str, Any]:
    """Summarise the seeds."""
    both: Iterable[tuple[str, Callable[[Seeds, str], float]]] = (("mean", _mean), ("sd", _spread))
    summary: dict[str, Any] = {f"{key}_{how}": of(seeds, key) for key in _SCORES for how, of in both}
    if "losses_apart" in seeds[0]:
        summary |= {key: _largest(seeds, key) for key in _APART} | {"identical_seeds": _identical(seeds)}
    return summary


def _kept(seeds: Seeds) -> Seeds:
    """Drop the curves of all seeds but the first."""
    return [seeds[0], *({key: of for key, of in seed.items() if "by_epoch" not in key} for seed in seeds[1:])]


def _compared(seeds: Seeds, base: Seeds, key: str) -> tuple[float, float]:
    """Return the mean of the differences of the same seed, and its standard error."""
    gaps = [mine - theirs for mine, theirs in _pairs(seeds, base, key)]
    return fmean(gaps), (stdev(gaps) if len(gaps) > 1 else 0.0) / sqrt(len(gaps))


def _pairs(seeds: Seeds, others: Seeds, key: str) -> list[tuple[float, float]]:
    return [(one[key], other[key]) for one, other in zip(seeds, others, strict=True)]


def _same(seeds: Seeds) -> bool:
    return _identical(seeds) == len(seeds)


def _identical(seeds: Seeds) -> int:
    return sum(seed["same_losses"] and seed["same_weights"] for seed in seeds)


def _largest(seeds: Seeds, key: str) -> float:
    return max(float(seed[key]) for seed in seeds)


def _mean(seeds: Seeds, key: str) -> float:
    return fmean(seed[key] for seed in seeds)


def _spread(seeds: Seeds, key: str) -> float:
    return stdev(seed[key] for seed in seeds) if len(seeds) > 1 else 0.0


def _share(seeds: Seeds, key: str) -> str:
    return f"{100 * _mean(seeds, key):.2f} ± {100 * _spread(seeds, key):.2f} %"


def _figure(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"
