"""The wheel, built once a session, and a virtual environment that holds nothing else."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


class Environment(NamedTuple):
    """Virtual environment: its interpreter, and the folder of its packages."""

    python: Path
    packages: Path


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [*PIP, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture
def environment(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """Return an environment with the wheel, and without the packages that it requires."""
    monkeypatch.delenv("PYTHONPATH", raising=False)  # it may lead to a checkout
    home = tmp_path / "environment"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    install = [*PIP, "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True)
    (packages,) = home.glob("lib/python*/site-packages")
    return Environment(python, packages)
