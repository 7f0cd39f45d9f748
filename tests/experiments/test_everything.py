"""The one command for all studies names studies that are there."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from experiments.everything import commands, main


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_study_is_there(device: str) -> None:
    for name, command in commands(device).items():
        assert command[2] == f"experiments.{name}.run"
        assert find_spec(command[2]) is not None


def test_a_device_s_reports_have_a_folder_of_their_own() -> None:
    assert commands("cuda")["limit"][-1].endswith("experiments/limit/cuda")
    assert "--folder" not in commands("cpu")["limit"]


def test_a_study_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "nothing"])
    assert "expected some of limit, tasks" in capsys.readouterr().err
