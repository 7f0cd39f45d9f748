"""A composed configuration as plain values, each of them checked before anything is built."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtl_accum._knobs import check_all

__all__ = ["checked"]


def checked(config: DictConfig) -> dict[str, Any]:
    """Resolve a configuration and check every knob.

    Args:
        config: what Hydra has composed.

    Returns:
        Plain values, without interpolations.

    Raises:
        ValueError: a knob has a wrong value, an interpolation leads nowhere, or a value is missing; names the key.
    """
    job_last = sorted(map(str, config), key=lambda name: name == "job")  # a job's keys are mostly knobs of other names
    plain = {name: _plain(config, name, name) for name in job_last}
    check_all(plain)
    return {str(name): plain[str(name)] for name in config}


def _plain(node: DictConfig | ListConfig, key: Any, place: str) -> Any:
    try:
        if OmegaConf.is_missing(node, key):
            raise ValueError(f"{place}: expected a value, found none; {place}=... gives it one")
        value = node[key]
    except OmegaConfBaseException as error:
        raise ValueError(f"{place}: {str(error.msg or error).partition(chr(10))[0]}") from error
    if isinstance(value, DictConfig):
        return {inner: _plain(value, inner, f"{place}.{inner}") for inner in value}
    if isinstance(value, ListConfig):
        return [_plain(value, index, f"{place}[{index}]") for index in range(len(value))]
    return value
