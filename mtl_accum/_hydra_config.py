"""Conversion of a composed configuration into plain values, with a check of every knob before anything is built."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtl_accum._knob_rules import check_all, flatten

__all__ = ["check_choices", "checked", "knobs_of"]

_GROUPS = ("job", "model", "data", "edition", "optimizer", "scheduler", "logger", "experiment")
_CHOICE = re.compile(rf"\+{{0,2}}({'|'.join(_GROUPS)})(@[\w.]+)?=")

_KNOB = re.compile(r"\$\{([\w.]+)\}")


def checked(config: DictConfig) -> dict[str, Any]:
    """Resolve a configuration and check every knob.

    Args:
        config: Configuration as composed by Hydra.

    Returns:
        Plain values, without interpolations.

    Raises:
        ValueError: A knob has a wrong value, an interpolation leads nowhere, or a value is missing; the message names
            the key.
    """
    plain: dict[str, Any] = {str(name): None for name in config}
    plain |= {name: _plain(config, name, name) for name in plain if name != "job"}
    check_all({name: value for name, value in plain.items() if name != "job"})
    plain["job"] = _plain(config, "job", "job") if "job" in config else None
    check_all(plain)  # the job last: it repeats the knobs that it reads, under names of its own
    return plain


def check_choices(arguments: Sequence[str]) -> None:
    """Check the group choices of a command line before Hydra reads them: Hydra's errors do not name the group.

    Args:
        arguments: Arguments of the command line.

    Raises:
        ValueError: A group is set to something else than the name of an option.
    """
    parser = OverridesParser.create()
    for argument in filter(_CHOICE.match, arguments):
        try:
            override = parser.parse_override(argument)
        except HydraException:
            continue  # Hydra's own error is better
        for value in override.sweep_iterator() if override.is_sweep_override() else [override.value()]:
            options = value if isinstance(value, list) else [value]
            if not all(isinstance(option, str | QuotedString | dict) and "${" not in str(option) for option in options):
                key = override.get_key_element()
                without = f", ~{key} leaves it out" if value is None else ""
                raise ValueError(
                    f"{key}={value}: expected the name of an option, found {value!r}; --help lists them{without}"
                )


def knobs_of(config: DictConfig) -> dict[str, str]:
    """Map every argument of the job that is a knob's value to the knob: {"comparison.editions": "compare.editions"}."""
    job = OmegaConf.select(config, "job", throw_on_resolution_failure=False)
    if not isinstance(job, DictConfig):
        return {}
    raw: Any = OmegaConf.to_container(job, resolve=False)
    values = {name: _KNOB.fullmatch(str(value)) for name, value in flatten(raw)}
    return {name: knob[1] for name, knob in values.items() if knob}


def _plain(node: DictConfig | ListConfig, key: Any, place: str) -> Any:
    try:
        if OmegaConf.is_missing(node, key):
            raise ValueError(f"{place}: expected a value, found none; {place}=... gives it one")
        value = node[key]
    except OmegaConfBaseException as error:
        raise ValueError(f"{place}: {str(error.msg or error).partition(chr(10))[0]}") from error
    if isinstance(value, DictConfig):
        return {inner: _plain(value, inner, f"{place}.{inner!s}") for inner in value}
    if isinstance(value, ListConfig):
        return [_plain(value, index, f"{place}[{index}]") for index in range(len(value))]
    return value
