"""The experiments in the shapes of the literature, for studies: the model and a batch, exactly as `conf/` has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from mtl_accum import MultiTaskModel

__all__ = ["SHAPES", "dense3", "lm_heads", "shape", "text8"]

_CONF = Path(__file__).resolve().parent.parent / "conf"


def dense3(scale: float, samples: int | None = None, *overrides: str) -> tuple[MultiTaskModel, Any]:
    """`+experiment=dense3`; see `shape`."""
    return shape("dense3", scale, samples, *overrides)


def text8(scale: float, samples: int | None = None, *overrides: str) -> tuple[MultiTaskModel, Any]:
    """`+experiment=text8`; see `shape`."""
    return shape("text8", scale, samples, *overrides)


def lm_heads(scale: float, samples: int | None = None, *overrides: str) -> tuple[MultiTaskModel, Any]:
    """`+experiment=lm_heads`; see `shape`."""
    return shape("lm_heads", scale, samples, *overrides)


def shape(experiment: str, scale: float, samples: int | None = None, *overrides: str) -> tuple[MultiTaskModel, Any]:
    """The model of an experiment, with its initial weights, and its first training batch, on the CPU.

    Under `torch.device("meta")` the model has no weights; the batch is real.

    Args:
        experiment: of conf/experiment.
        scale: 1 is full size.
        samples: of the batch; None is as many as the experiment has.
        overrides: more of them, as on the command line: "model.norm=group".
    """
    changes = [f"+experiment={experiment}", f"scale={scale}", *overrides]
    changes += [] if samples is None else [f"data.batch_size={samples}", f"data.samples={samples}"]
    with initialize_config_dir(str(_CONF), version_base="1.3"):
        config = compose("config", changes)
    torch.manual_seed(config.seed)
    model: MultiTaskModel = instantiate(config.model, _convert_="all")
    with torch.device("cpu"):
        return model, next(iter(instantiate(config.data, _convert_="all").train()))


SHAPES = {"dense3": dense3, "text8": text8, "lm_heads": lm_heads}
