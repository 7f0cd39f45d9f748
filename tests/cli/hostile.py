"""Random command lines with one meaningless override each: a knob accepts it, or refuses it in one line."""

from __future__ import annotations

import json
import math
import random
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from mtl_accum.report import VERSION
from tests.cli.command import SMALL, mtl_accum
from tests.report import examples

CONF = Path(__file__).resolve().parents[2] / "conf"
ONE_EDITION = ["~edition@compare.editions.per_task", "~edition@compare.editions.split"]
ONE_CHECK = [f"~edition@check.editions.{name}" for name in ("per_task", "cached", "accumulated")]
TWO_TASK = ["+experiment=two_task", *SMALL, *ONE_EDITION, *ONE_CHECK]
TINY = ["epochs=1", "data.batch_size=4", "data.samples=8", "data.test_samples=4", *ONE_EDITION, *ONE_CHECK]
MANY = ["num_tasks=2", "model.width=4", "model.depth=1", "data.batch_size=500", "epochs=1"]
COSINE = ["scheduler=cosine", "scheduler.T_max=9", "optimizer=sgd", "edition=cached"]
PLATEAU = ["scheduler=plateau", "monitor=accuracy", "data.validation_fraction=0.2", "edition=accumulated"]
EXPERIMENTS = [  # with their relative frequency
    (TWO_TASK, 12),
    ([*TWO_TASK, "job=check"], 2),
    ([*TWO_TASK, "job=predict", "device=cpu"], 2),
    ([*TWO_TASK, *COSINE], 2),
    ([*TWO_TASK, *PLATEAU], 2),
    (["+experiment=lm_heads", "scale=0.03", *TINY], 2),
    (["+experiment=dense3", "scale=0.06", *TINY], 1),
    (["+experiment=many_tasks", *MANY], 1),
    (["job=report", "path=run"], 1),
]
# Parts that each job builds; values inside the others are never read.
BUILT = {
    "train": ("model", "data", "edition", "optimizer", "scheduler", "logger", "compare", "measures", "images"),
    "check": ("model", "data", "optimizer", "check"),
    "predict": ("model", "data", "optimizer", "compare"),
    "report": (),
}
WRONG = [
    *("null", "true", "false", "abc", "''", "'ä 漢 😀'", "'a b=c'", "../x", "'$$x'", "???"),
    *("-1", "0", "1", "2", "3", "1.5", "-0.5", "1e3", "1e308", "nan", "inf", "-inf", "1e-320", "0x10", "1_000"),
    *(str(2**31), str(2**63), str(2**70), str(-(2**70))),
    *("[]", "{}", "[1,2]", "[[]]", "[nan]", "{a:1}", "{a:{b:[1]}}", "{_target_:abc}", "{_target_:os.getpid}"),
    *("{_target_:torch.nn.Linear}", "{_partial_:true}"),
    *(r"${nothing}", r"${epochs}", r"${model}", r"${oc.env:NOBODY_SETS_THIS}", r"${unknown:1}"),
]
LONG = ("epochs", "steps", "samples", "num_tasks", "ahead", "layers", "depth", "classes", "vocabulary", "length")
HYDRA_KEYS = {"_target_": str, "_partial_": bool, "_recursive_": bool, "_convert_": str, "_args_": list}
NULLABLE = ("every_seconds",)  # although the default is another value
LIBRARIES = (
    "metric",
    "loss",
    "optimizer",
    "scheduler",
    "logger",
)  # check their arguments themselves
SECONDS = 60  # after which a case counts as hung


@dataclass(frozen=True)
class Case:
    """A command line.

    Attributes:
        arguments: All arguments of the command line.
        key: Key that is overridden.
        default: Value of the key without the override; None also for an unknown key.
    """

    arguments: tuple[str, ...]
    key: str
    default: Any

    @property
    def override(self) -> str:
        """Return the hostile argument."""
        return self.arguments[-1]


def hostile(seed: int, count: int) -> Iterator[Case]:
    """Yield `count` command lines, the same ones for the same seed."""
    draw = random.Random(seed)
    bases, weights = zip(*EXPERIMENTS, strict=True)
    for _ in range(count):
        yield _case(draw, draw.choices(bases, weights)[0])


def run(case: Case, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a case up to the measurement of editions, in an empty folder with a report in `run`."""
    (folder / "run").mkdir(parents=True)
    (folder / "run" / "report.json").write_text(json.dumps({"version": VERSION, "kind": "run", **examples.report()}))
    return mtl_accum(*case.arguments, "hydra.run.dir=out", cwd=folder, building_only=True, seconds=SECONDS)


def fault(case: Case, done: subprocess.CompletedProcess[str]) -> str:
    """Describe the fault in how a case ended; empty without one."""
    if done.returncode == 0:
        return "" if _is_meant(case) else "accepted"
    lines = done.stderr.splitlines()
    if done.returncode != 1 or len(lines) != 1 or not lines[0].startswith("mtl_accum: "):
        return "not one line"
    names = {*case.key.split("."), *(["train"] if case.key == "job.training" else [])}
    named = any(name in lines[0] for name in names) or "loss is" in lines[0]  # numbers too large for training
    return "" if named else "key not named"


def _case(draw: random.Random, base: list[str]) -> Case:
    job = next((argument.removeprefix("job=") for argument in base if argument.startswith("job=")), "train")
    knobs = {key: value for key, value in _knobs(tuple(base)).items() if _is_read(key, job)}
    key, value, form = draw.choice(list(knobs)), draw.choice(WRONG), draw.random()
    built = [key for key, inner in knobs.items() if isinstance(inner, dict) and "_target_" in inner]
    if form < 0.06:
        return Case((*base, f"~{key}"), key, knobs[key])
    if form < 0.12:
        unknown = f"{key}.unknown" if isinstance(knobs[key], dict) else "unknown"
        return Case((*base, f"{draw.choice(['', '+'])}{unknown}={value}"), unknown, None)
    if form < 0.2:
        hydra = f"{draw.choice(built)}.{draw.choice(list(HYDRA_KEYS))}"
        return Case((*base, f"++{hydra}={value}"), hydra, None)
    if key.rpartition(".")[2] in LONG and value in (str(2**31), "1_000"):
        value = "nan"  # a large number is a long run, not a mistake
    return Case((*base, f"{key}={value}"), key, knobs[key])


def _is_read(key: str, job: str) -> bool:
    group, _, inner = key.partition(".")
    return not inner or group in ("job", "checkpoint", *BUILT[job])


def _is_meant(case: Case) -> bool:
    """Return whether an accepted value is of the kind of the default."""
    last = case.key.rpartition(".")[2]
    if case.override.startswith("~") or last == "unknown":
        return True  # constructors have defaults, and users may add keys for interpolations
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", list(case.arguments))
    value, default = OmegaConf.select(config, case.key), case.default
    if last in HYDRA_KEYS:
        return isinstance(value, HYDRA_KEYS[last])
    if last in NULLABLE or set(case.key.split(".")[:-1]) & set(LIBRARIES):
        return True
    if value is None or default is None:
        return default is None and not (isinstance(value, float) and math.isnan(value))
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, int | float):
        whole = isinstance(value, int) and value >= 0
        return whole or (isinstance(default, float) and isinstance(value, float) and math.isfinite(value))
    if isinstance(default, str):
        return isinstance(value, str) and value != ""
    return isinstance(value, Mapping) == isinstance(default, Mapping)


@cache
def _knobs(base: tuple[str, ...]) -> dict[str, Any]:
    """Return every key of the composed configuration, groups included, with its value."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", list(base))
    return dict(_flat(OmegaConf.to_container(config, resolve=True), ""))


def _flat(value: dict[str, Any], place: str) -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        key = f"{place}{name}"
        yield key, inner
        if isinstance(inner, dict):
            yield from _flat(inner, f"{key}.")
