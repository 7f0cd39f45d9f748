"""The table of knobs, and the rules in it."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtl_accum import _validate
from mtl_accum._knob_rules import DEFAULTS, KNOBS, check_all, check_knob, flatten
from mtl_accum._train_settings import CheckpointConfig, TrainConfig, help_of
from mtl_accum.training.loop._learning_rate import _RULES
from mtl_accum.training.loop._precision import _DTYPES

CONF = Path(__file__).resolve().parents[2] / "conf"
TEXT = (CONF / "config.yaml").read_text()
CONFIG = yaml.safe_load(TEXT)


def test_every_knob_has_a_rule() -> None:
    top = set(CONFIG) - {"defaults", "hydra"} | {"job", "edition", "optimizer", "check"}
    assert top == {name for name in KNOBS if "." not in name}
    assert set(CONFIG["checkpoint"]) == {name.partition(".")[2] for name in KNOBS if name.startswith("checkpoint.")}
    assert set(CONFIG["compare"]) < {name.partition(".")[2] for name in KNOBS if name.startswith("compare.")}


def test_defaults_meet_their_rules() -> None:
    built = ("edition", "optimizer", "job")
    check_all({name: value for name, value in CONFIG.items() if name not in ("defaults", "hydra", *built)})


def comments(text: Any) -> Any:
    """The comment of every `key: value  # comment` in a YAML file of two levels, by dotted key."""
    group, by_key = "", {}
    for indent, key, comment in re.findall(r"^( *)(\w+):(?: [^#\n]*)?(?:# (.*))?$", text, re.MULTILINE):
        group = group if indent else key
        by_key[f"{group}.{key}" if indent else key] = comment
    return by_key


def test_a_setting_of_the_loop_is_the_same_wherever_it_stands() -> None:
    """Name, default and help of a field, and the knob's line in the configuration and in the job."""
    values = dict(flatten(CONFIG))
    assert {name: values[name] for name in DEFAULTS} == DEFAULTS
    written = comments(TEXT)
    for name, line in {**help_of(TrainConfig), **help_of(CheckpointConfig, "checkpoint.")}.items():
        assert written[name] == line, name
    job = yaml.safe_load((CONF / "job" / "train.yaml").read_text())
    for block, config, prefix in [
        (job["loop"], TrainConfig, ""),
        (job["recording"]["checkpoint"], CheckpointConfig, "checkpoint."),
    ]:
        knobs = {field.name: f"${{{prefix}{field.name}}}" for field in fields(config)}
        assert block == {"_target_": f"mtl_accum.training.{config.__name__}", **knobs}


def test_every_job_builds_its_experiment_last_and_the_network_last_of_all() -> None:
    jobs = {path.stem: yaml.safe_load(path.read_text()) for path in (CONF / "job").iterdir()}
    knobs = {name: f"${{{name}}}" for name in ("optimizer", "device", "seed", "data", "model")}
    experiment = {"_target_": "mtl_accum.jobs.Experiment", **knobs}
    for name in ("train", "check", "plan", "predict", "evaluate"):
        expected = {key: value for key, value in experiment.items() if name != "evaluate" or key != "optimizer"}
        assert list(jobs[name]["experiment"].items()) == list(expected.items()), name
        assert list(jobs[name])[-1] == "experiment"


def test_choices_of_a_setting_are_those_of_the_code() -> None:
    for name, choices in {"precision": _DTYPES, "lr_scaling": _RULES}.items():
        for choice in choices:  # type: ignore[attr-defined]
            check_knob(name, choice)


VALUES = [None, True, "", "a", -1, 0, 1, 2**63, 0.5, 1.0, math.nan, math.inf, [], {}, [1], float]  # type: ignore[var-annotated]


@pytest.mark.parametrize(
    ("rule", "right"),
    [
        ("boolean", [True]),
        ("text", ["a"]),
        ("positive_int", [1]),
        ("natural", [0, 1]),
        ("small_int", [1]),
        ("small_natural", [0, 1]),
        ("workers", [0, 1]),
        ("number", [-1, 0, 1, 0.5, 1.0]),
        ("not_negative", [0, 1, 0.5, 1.0]),
        ("positive", [1, 0.5, 1.0]),
        ("fraction", [0.5]),
        ("share", [0, 0.5]),
        ("probability", [0, 1, 0.5, 1.0]),
        ("selector", [value for value in VALUES if not isinstance(value, list | dict)]),
        ("size", [1, 2**63 - 1]),
        ("device", []),
    ],
)
def test_rule(rule: str, right: Any) -> None:
    for value in VALUES:
        if any(value is one for one in right):
            getattr(_validate, rule)("x", value)
        elif not any(value == one and type(value) is type(one) for one in right):
            with pytest.raises(ValueError, match=r"^x must be .*found "):
                getattr(_validate, rule)("x", value)


@pytest.mark.parametrize("value", ["auto", "6GiB", " 6 GB ", "80%", "0.5MiB", "100kB", 5])
def test_sizes(value: int | str) -> None:
    _validate.size("budget", value)


@pytest.mark.parametrize("value", ["", "6gb", "0GiB", "101%", "-1GiB", "GiB", "6", 0, -5, 1.5, True, None, "1e3B"])
def test_no_sizes(value: Any) -> None:
    with pytest.raises(ValueError, match="budget must be a size such as 6GiB or 6GB, a share such as 80%, or auto; f"):
        _validate.size("budget", value)


@pytest.mark.parametrize("value", ["auto", "cpu", "cuda", "cuda:0", "cuda:15"])
def test_devices(value: str) -> None:
    _validate.device("device", value)


@pytest.mark.parametrize("value", ["gpu", "cuda:", "cuda:-1", "cpu:0", "CUDA", "cuda:99999", "meta", ""])
def test_no_devices(value: str) -> None:
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda or cuda:N, found "):
        _validate.device("device", value)


def test_a_wrong_value_is_shown_shortened() -> None:
    with pytest.raises(ValueError, match="found 'a+$") as error:
        _validate.natural("x", "a" * 10_000)
    assert len(str(error.value)) < 300
