"""Refusals, before anything runs, of networks for which an edition cannot be exact."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from mtl_accum.editions._engine._modules import is_compiled, modules_of, named_modules_of
from mtl_accum.editions._engine.batch._inner_task import couples_samples, obstacle_in_pieces

__all__ = [
    "refuse_batch_statistics",
    "refuse_coupled_samples",
    "refuse_hidden_modules",
    "refuse_weights",
    "uses_batch_statistics",
]

Parts = Mapping[str, Callable[..., Any]]  # the trunk and the tasks, by name


def refuse_batch_statistics(edition: object, parts: Parts) -> None:
    """Raise ValueError if a module normalises over the samples of its input, or changes with every pass.

    That is every kind of BatchNorm (Ioffe and Szegedy, 2015) in training mode or without running statistics, in-place
    variants by their class's name, and the power iteration of spectral normalisation (Miyato et al., 2018).
    """
    for part, function in parts.items():
        for path, module in named_modules_of(function):
            name = ".".join(filter(None, (part, path)))
            if uses_batch_statistics(module):
                raise ValueError(
                    f"{_name(edition)}: {name} ({type(module).__name__}) uses batch statistics, which "
                    "differ in pieces of the batch; convert it with mtl_accum.to_group_norm(module), put it in eval "
                    "mode, or accept statistics of the pieces with allow_batch_statistics=True"
                )
            if _iterates(module):
                raise ValueError(
                    f"{_name(edition)}: {name} ({type(module).__name__}) has spectral normalisation, which takes "
                    "another step of its power iteration in every piece, so pieces see other weights; put it in "
                    "eval mode, use Split() on the whole batch, or accept it with allow_batch_statistics=True"
                )


# Batch normalisations that do not derive from torch's: inplace_abn's, apex's, detectron2's, timm's.
_OTHERS = re.compile(r"(InPlace)?ABN(Sync)?|InplaceAbn\w*|(Naive)?Synch?(ronized)?BatchNorm\w*|EvoNorm2dB\w*")


def uses_batch_statistics(module: nn.Module) -> bool:
    """Return whether a module, in its present mode, normalises over the samples of its input."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module.training or module.running_mean is None
    return module.training and any(_OTHERS.fullmatch(kind.__name__) for kind in type(module).__mro__)


def _iterates(module: nn.Module) -> bool:
    """Return whether a module has spectral normalisation in training: as a parametrization, or as a hook."""
    hooks = module._forward_pre_hooks.values()
    return module.training and (
        (isinstance(module, _SpectralNorm) and hasattr(module, "_u"))  # a vector's norm takes no iterations
        or any(isinstance(hook, SpectralNorm) for hook in hooks)
    )


def refuse_coupled_samples(edition: object, tasks: Parts) -> None:
    """Raise ValueError if a task declares that its loss couples samples, or has a weight that pieces change."""
    for name, task in tasks.items():
        if couples_samples(task):
            raise ValueError(
                f"{_name(edition)}: task '{name}' declares couples_samples=True: its loss over pieces is another loss; "
                "Cached without head_chunks, Split and PerTask give it the whole batch"
            )
    refuse_weights(edition, tasks)


def refuse_weights(edition: object, tasks: Mapping[str, Any]) -> None:
    """Raise ValueError if a task's weight makes its loss over pieces of a batch another loss."""
    for name, task in tasks.items():
        if reason := obstacle_in_pieces(task):
            raise ValueError(
                f"{_name(edition)}: task '{name}': {reason}, so the loss over pieces is another loss; Cached "
                "without head_chunks, Split and PerTask give it the whole batch"
            )


def refuse_hidden_modules(edition: object, parts: Parts) -> None:
    """Raise ValueError if a compiled function hides the modules whose buffers would have to be replayed."""
    for part, function in parts.items():
        if is_compiled(function) and not modules_of(function):
            raise ValueError(
                f"{_name(edition)}: {part} is a compiled function, and no module can be found behind it, so its "
                "buffers cannot be replayed; compile the module itself: torch.compile(module)"
            )


def _name(edition: object) -> str:
    return type(edition).__name__
