"""The installed wheel brings its configuration and runs from any folder."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.cli.command import SMALL, SUMMED_ONLY, mtl_accum

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_wheel_runs_from_any_folder(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [
        *pip,
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    home = tmp_path / "environment"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    subprocess.run(
        [*pip, "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)],
        check=True,
    )
    (site,) = home.glob("lib/python*/site-packages")
    (site / "outer.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")  # the packages that the tests run with
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    where = subprocess.run(
        [str(python), "-c", "import mtl_accum; print(mtl_accum.__file__)"],
        cwd=elsewhere, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(where.stdout.strip()).is_relative_to(home)
    settings = [*SMALL, *SUMMED_ONLY, "hydra.run.dir=out"]
    done = mtl_accum("+experiment=two_task", *settings, cwd=elsewhere, python=str(python))
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "out" / "report.json").exists()
