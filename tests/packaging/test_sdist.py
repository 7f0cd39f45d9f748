"""The source distribution has all that its tests import and read."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.slow
def test_tests_of_the_source_distribution_are_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        files.extractall(tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    monkeypatch.setenv("PYTHONPATH", str(unpacked))
    imported = subprocess.run(
        [sys.executable, "-c", "import mtl_accum; print(mtl_accum.__file__)"],
        cwd=unpacked, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(imported.stdout.strip()).is_relative_to(unpacked)
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", "-m", ""]
    done = subprocess.run(collect, cwd=unpacked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    modules = {line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line}
    assert modules == {str(path.relative_to(ROOT)) for path in ROOT.glob("tests/**/test_*.py")}
