"""Command lines with one override that nobody means, drawn from a seed: what a knob must take or refuse in one line."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tests.cli import SMALL

CONF = Path(__file__).resolve().parent.parent / "conf"
ONE_EDITION = ["~edition@compare.editions.per_task", "~edition@compare.editions.split"]
ONE_CHECK = [f"~edition@check.editions.{name}" for name in ("per_task", "cached", "accumulated")]
TWO_TASK = ["+experiment=two_task", *SMALL, *ONE_EDITION, *ONE_CHECK]
TINY = ["epochs=1", "data.batch_size=4", "data.samples=8", "data.test_samples=4", *ONE_EDITION, *ONE_CHECK]
EXPERIMENTS = [  # with how often
    (TWO_TASK, 12),
    ([*TWO_TASK, "job=check"], 2),
    ([*TWO_TASK, "job=predict", "device=cpu"], 2),
    ([*TWO_TASK, "scheduler=cosine", "scheduler.T_max=9", "optimizer=sgd", "edition=cached"], 2),
    ([*TWO_TASK, "scheduler=plateau", "monitor=accuracy", "data.validation_fraction=0.2", "edition=accumulated"], 2),
    (["+experiment=lm_heads", "scale=0.03", *TINY], 2),
    (["+experiment=dense3", "scale=0.06", *TINY], 1),
    (["+experiment=many_tasks", "num_tasks=2", "model.width=4", "model.depth=1", "data.batch_size=500", "epochs=1"], 1),
    (["job=report", "path=nowhere"], 1),
]
WRONG = [
    *("null", "true", "false", "abc", "''", "'ä 漢 😀'", "'a b=c'", "../x", "'$$x'", "???"),
    *("-1", "0", "1", "2", "3", "1.5", "-0.5", "1e3", "1e308", "nan", "inf", "-inf", "1e-320", "0x10", "1_000"),
    *(str(2**31), str(2**63), str(2**70), str(-(2**70))),
    *("[]", "{}", "[1,2]", "[[]]", "[nan]", "{a:1}", "{a:{b:[1]}}", "{_target_:abc}", "{_target_:os.getpid}"),
    *("{_target_:torch.nn.Linear}", "{_partial_:true}"),
    *(r"${nothing}", r"${epochs}", r"${model}", r"${oc.env:NOBODY_SETS_THIS}", r"${unknown:1}"),
]
LONG = ("epochs", "depth", "steps", "layers", "ahead", "blocks", "num_tasks")  # 2**31 of them are long, not wrong


@dataclass(frozen=True)
class Case:
    """A command line.

    Attributes:
        arguments: all of it.
        key: what is overridden.
        value: with what.
        default: what is there otherwise; None also where there is nothing.
    """

    arguments: tuple[str, ...]
    key: str
    value: str
    default: Any

    def __str__(self) -> str:
        return " ".join(self.arguments)


def hostile(seed: int, count: int) -> Iterator[Case]:
    """So many command lines, the same ones for the same seed."""
    draw = random.Random(seed)
    bases, weights = zip(*EXPERIMENTS, strict=True)
    for _ in range(count):
        base = draw.choices(bases, weights)[0]
        yield _case(draw, base)


def _case(draw: random.Random, base: list[str]) -> Case:
    knobs = _knobs(tuple(base))
    key = draw.choice(list(knobs))
    value = draw.choice(WRONG)
    if value == str(2**31) and key.rpartition(".")[2] in LONG:
        value = str(2**63)
    default, kind = knobs[key], draw.random()
    if kind < 0.06:
        override = f"~{key}"
    elif kind < 0.12:
        key = f"{key}.unknown" if isinstance(default, dict) else "unknown"
        override = f"{draw.choice(['', '+'])}{key}={value}"
    elif kind < 0.2:
        key = draw.choice(
            [*(name for name, inner in knobs.items() if isinstance(inner, dict) and "_target_" in inner), "job"]
        )
        key = f"{key}.{draw.choice(['_target_', '_partial_', '_convert_', '_recursive_', '_args_'])}"
        override = f"++{key}={value}"
    else:
        override = f"{key}={value}"
    return Case((*base, override, "hydra.run.dir=out"), key, value, default)


@cache
def _knobs(base: tuple[str, ...]) -> dict[str, Any]:
    """Every key of the composed configuration, groups included, with its value."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", list(base))
    return dict(_flat(OmegaConf.to_container(config), ""))


def _flat(value: dict[str, Any], place: str) -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        key = f"{place}{name}"
        yield key, inner
        if isinstance(inner, dict):
            yield from _flat(inner, f"{key}.")
