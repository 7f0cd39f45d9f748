"""Run the code of a page under docs/trainers/, with the edition's loss or with the plain summed loss.

A page has a block that makes the network (the same on every page), then the trainer's code, then diffs from the plain
loop to that code. The plain loop is the page's code with its own diffs undone, so the diffs are tested too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
PAGES = sorted(page.stem for page in (DOCS / "trainers").glob("*.md") if page.stem != "index")


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skip the tests of a file where a package is missing; the tests import it themselves, since that takes seconds."""
    missing = [package for package in packages if find_spec(package) is None]
    return pytest.mark.skipif(
        bool(missing), reason=f"{', '.join(missing)} not installed: pip install mtl-accum[trainers]"
    )


def text_of(page: str) -> str:
    return (DOCS / "trainers" / f"{page}.md").read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text_of(page), re.DOTALL)


def network_code(page: str) -> str:
    return blocks(page, "python")[0]


def trainer_code(page: str, *, plain: bool) -> str:
    code = "\n".join(blocks(page, "python")[1:])
    return without(code, blocks(page, "diff")) if plain else code


def without(code: str, hunks: list[str]) -> str:
    """Undo hunks, each of which must fit in exactly one place."""
    for hunk in hunks:
        lines = [line.rstrip() or " " for line in hunk.splitlines()]
        after = "".join(f"{line[1:]}\n" for line in lines if line[0] != "-")
        before = "".join(f"{line[1:]}\n" for line in lines if line[0] != "+")
        assert code.count(after) == 1, f"this hunk's result is not in the page's code:\n{hunk}"
        code = code.replace(after, before)
    return code


def changed(code: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        assert old in code, f"{old!r} is not in the page's code"
        code = code.replace(old, new)
    return code


def run(
    page: str,
    *,
    plain: bool,
    network: str | None = None,
    changes: Mapping[str, str] = MappingProxyType({}),
    ours: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Run a page from a known random state and return the names that it leaves.

    Args:
        page: Name of the page.
        plain: Whether its diffs are undone.
        network: Code that makes `model` and `rows`, in place of the page's own.
        changes: Replacements in the trainer's code, such as another precision.
        ours: More of them, which are not in the plain loop.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    torch.manual_seed(0)
    exec(compile(network or network_code(page), f"<{page}, network>", "exec"), names)
    torch.manual_seed(1)
    code = changed(trainer_code(page, plain=plain), {**changes, **({} if plain else ours)})
    exec(compile(code, f"<{page}, plain={plain}>", "exec"), names)
    return names


def weights(names: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return copies of the trained weights, by name."""
    return {name: value.detach().clone() for name, value in names["model"].state_dict().items()}


def furthest(page: str, **options: Any) -> float:
    """Return the largest absolute difference of the final weights to those of the plain loop."""
    ours, plain = weights(run(page, plain=False, **options)), weights(run(page, plain=True, **options))
    assert ours.keys() == plain.keys()
    assert all(value.isfinite().all() for value in plain.values())
    return max((ours[name].double() - plain[name].double()).abs().max().item() for name in ours)


# AdamW and clipping both take a constant factor out of the gradients; with these no factor goes unnoticed.
PLAIN_STEPS = {"torch.optim.AdamW(": "torch.optim.SGD(", "0.5": "1e9"}

# Two dense tasks of a convolutional trunk, with dropout in the trunk and in the heads.
CONVOLUTIONS = """
import torch
from torch import nn
from torch.utils.data import DataLoader
from mtl_accum import MultiTaskModel, Split, Task

def dense(channels):
    return nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.GELU(), nn.Dropout(0.2), nn.Conv2d(16, channels, 1))

trunk = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.GELU(), nn.Dropout2d(0.2))
tasks = {
    "depth": Task(dense(1), nn.L1Loss(), "depth"),
    "labels": Task(dense(5), nn.CrossEntropyLoss(), "labels", weight=0.5),
}
model = MultiTaskModel(trunk, tasks, inputs="x")
rows = [
    {"x": torch.randn(3, 8, 8), "depth": torch.rand(1, 8, 8), "labels": torch.randint(5, (8, 8))} for _ in range(48)
]
"""
