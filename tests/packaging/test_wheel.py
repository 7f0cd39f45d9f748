"""The installed wheel brings its configuration and runs from any folder."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.cli.command import SMALL, SUMMED_ONLY, mtl_accum
from tests.packaging.conftest import Environment


@pytest.mark.slow
def test_wheel_runs_from_any_folder(environment: Environment, tmp_path: Path) -> None:
    outer = sysconfig.get_paths()["purelib"]  # the packages that the tests run with
    (environment.packages / "outer.pth").write_text(f"{outer}\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    imported = subprocess.run(
        [environment.python, "-c", "import mtl_accum; print(mtl_accum.__file__)"],
        cwd=elsewhere, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(imported.stdout.strip()).is_relative_to(environment.packages)
    settings = [*SMALL, *SUMMED_ONLY, "hydra.run.dir=out"]
    done = mtl_accum("+experiment=two_task", *settings, cwd=elsewhere, python=str(environment.python))
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "out" / "report.json").exists()
