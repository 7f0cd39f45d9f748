"""`cut`, `fold` and the editions need torch, and no other package that the distribution requires."""

from __future__ import annotations

import subprocess
from importlib.metadata import Distribution, distribution
from inspect import isabstract
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mtl_accum import editions
from tests.packaging.conftest import Environment

SCRIPT = Path(__file__).with_name("torch_alone.py")
OTHERS = "hydra omegaconf numpy rich plotly matplotlib PIL jsonschema sklearn safetensors torchmetrics tensorboard"


def required_by(name: str) -> dict[str, Distribution]:
    """Collect a distribution and all that it requires here, extras left out."""
    collected: dict[str, Distribution] = {}
    waiting = [name]
    while waiting:
        name = waiting.pop()
        if name in collected:
            continue
        collected[name] = distribution(name)
        requirements = [Requirement(text) for text in collected[name].requires or ()]
        waiting += [one.name for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    return collected


def link(source: Distribution, packages: Path) -> None:
    """Make the files of a distribution importable from another folder.

    Each file is a link of its own: several distributions may share a folder.
    """
    for file in source.files or ():
        if ".." in file.parts:  # commands, beside the packages
            continue
        target = packages / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(str(source.locate_file(file)))


@pytest.mark.slow
def test_cut_fold_and_every_edition_where_torch_alone_is_installed(environment: Environment, tmp_path: Path) -> None:
    for one in required_by("torch").values():
        link(one, environment.packages)
    code = f"from importlib.util import find_spec; print([name for name in {OTHERS.split()} if find_spec(name)])"
    importable = subprocess.run(
        [environment.python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert importable.stdout.strip() == "[]"
    # The one warning is torch's own, without numpy.
    command = [str(environment.python), "-W", "error", "-W", "ignore:Failed to initialize NumPy", str(SCRIPT)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    classes = [getattr(editions, name) for name in editions.__all__ if isinstance(getattr(editions, name), type)]
    concrete = {one.__name__ for one in classes if issubclass(one, editions.Edition) and not isabstract(one)}
    assert set(done.stdout.split()) == concrete
