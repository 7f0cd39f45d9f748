"""The networks of `conf/experiment` in the shapes of the literature: a model and a batch, as configured there."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

import mtl_accum
from mtl_accum.models import MultiTaskModel

__all__ = ["SHAPES", "build_shape"]

_PACKAGE = Path(mtl_accum.__file__).parent


def build_shape(
    experiment: str, scale: float, samples: int | None = None, *overrides: str
) -> tuple[MultiTaskModel, Any]:
    """Build the model of an experiment, with its initial weights, and load its first training batch, on the CPU.

    Under `torch.device("meta")` the model has no weights; the batch is real.

    Args:
        experiment: Name of a file in conf/experiment.
        scale: Factor on the network's size; 1 is full size.
        samples: Number of samples in the batch; None keeps the experiment's own.
        overrides: Further overrides, as on the command line: "model.norm=group".
    """
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    changes = [f"+experiment={experiment}", f"scale={scale}", *overrides]
    changes += [] if samples is None else [f"data.batch_size={samples}", f"data.samples={samples}"]
    with initialize_config_dir(str(_conf()), version_base="1.3"):
        config = compose("config", changes)
    torch.manual_seed(config.seed)
    model: MultiTaskModel = instantiate(config.model, _convert_="all")
    with torch.device("cpu"):
        return model, next(iter(instantiate(config.data, _convert_="all").train()))


def _conf() -> Path:
    """Return the folder of the configuration: inside the package of a wheel, beside it in a checkout."""
    inside = _PACKAGE / "conf"
    return inside if inside.is_dir() else _PACKAGE.parent / "conf"


SHAPES = {name: partial(build_shape, name) for name in ("dense3", "text8", "lm_heads")}
