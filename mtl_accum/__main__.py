"""The command line: compose the configuration, build the job, run it, and report errors in one line."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import OmegaConf, open_dict

from mtl_accum._error_line import is_interrupt, one_line, without_place
from mtl_accum._hydra_config import check_choices, checked, knobs_of
from mtl_accum._lock import only_process_in
from mtl_accum._logs import complain_once
from mtl_accum._sweep import SweepReport
from mtl_accum._validate import natural
from mtl_accum.jobs import Run

if TYPE_CHECKING:
    from omegaconf import DictConfig

_PACKAGE = Path(__file__).resolve().parent
_CONF = next((home / "conf" for home in (_PACKAGE, _PACKAGE.parent) if (home / "conf").is_dir()), _PACKAGE / "conf")
_INTERRUPTED = 130  # 128 + SIGINT, as in shells
_WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"


@hydra.main(version_base="1.3", config_path=str(_CONF), config_name="config")
def _run(config: DictConfig) -> None:
    in_sweep = HydraConfig.get().mode is RunMode.MULTIRUN
    complain_once()
    with _reported(config, in_sweep):
        plain = checked(config)
        if in_sweep:
            plain["compare"]["editions"] = _measure_own_edition_only(config)
        _seed(plain["job"])
        job = instantiate(config.job)
        job(run=Run(folder=_folder(), command=_command(), config=plain))


def main() -> None:
    """Run the job of the command line; exit with 1 and one line for errors that the user can mend."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises in place of printing and exiting
    with _one_line_errors():
        _refuse_several_processes()
        check_choices(sys.argv[1:])
        _run()
    if SweepReport.failed:
        print(f"mtl_accum: {SweepReport.failed}", file=sys.stderr)
        sys.exit(1)


def _refuse_several_processes() -> None:
    """Raise ValueError under torchrun and similar launchers: all processes would train into the same folder."""
    size = os.environ.get("WORLD_SIZE", "1")
    if size.strip() not in ("", "0", "1"):
        raise ValueError(
            f"WORLD_SIZE={size}: expected one process; several would each train the whole on their own, into one "
            "folder. Start it as python -m mtl_accum, without torchrun, or unset WORLD_SIZE"
        )


def _seed(job: Mapping[str, Any]) -> None:
    """Seed torch, before the model draws its weights; a job without an experiment has no seed, and needs no torch."""
    parts = job.get("experiment", job)
    if "seed" in parts:
        natural("seed", parts["seed"])
        import torch

        torch.manual_seed(parts["seed"])


def _folder() -> Path:
    folder, here = Path(HydraConfig.get().runtime.output_dir), Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def _command() -> str:
    return shlex.join(["python", "-m", "mtl_accum", *HydraConfig.get().overrides.task])


def _measure_own_edition_only(config: DictConfig) -> dict[str, Any]:
    """Leave only the job's own edition to measure: a sweep compares jobs, and each would measure all editions again."""
    name = HydraConfig.get().runtime.choices["edition"]
    with open_dict(config):
        config.compare.editions = {name: config.edition}
    return {name: OmegaConf.to_container(config.edition, resolve=True)}


@contextmanager
def _reported(config: DictConfig, in_sweep: bool) -> Iterator[None]:
    """Lock the run's folder and report failures there; a process without the lock writes nothing into the folder."""
    if in_sweep:
        with only_process_in(_folder()), _kept_failures(config):
            yield
    else:
        # Not only in main: Hydra would add a line about the failed job.
        with _one_line_errors(config), only_process_in(_folder()):
            yield


@contextmanager
def _kept_failures(config: DictConfig) -> Iterator[None]:
    """Write the reason of a failed job of a sweep into its folder, and let the sweep continue."""
    try:
        yield
    except Exception as error:
        from mtl_accum import report

        if hasattr(error, "exit_code") or is_interrupt(error):  # stopped by a signal: the sweep ends too
            raise
        line = one_line(error, knobs_of(config))
        reason = without_place(error) if line is None else line
        failure = {"command": _command(), "reason": reason, "config": OmegaConf.to_container(config)}
        report.write_failure(failure, _folder())
        if _WANTS_TRACEBACK or line is None:
            traceback.print_exc()
        print(f"mtl_accum: job {HydraConfig.get().job.num}: {reason}", file=sys.stderr)


def _exit_interrupted() -> NoReturn:
    print(f"mtl_accum: interrupted; {SweepReport.describe_rest()}", file=sys.stderr)
    sys.exit(_INTERRUPTED)


@contextmanager
def _one_line_errors(config: DictConfig | None = None) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        _exit_interrupted()
    except Exception as error:
        if is_interrupt(error):
            _exit_interrupted()
        line = one_line(error, None if config is None else knobs_of(config))
        if hasattr(error, "exit_code"):  # stopped by a signal
            print(f"mtl_accum: {line or error}", file=sys.stderr)
            sys.exit(error.exit_code)
        if _WANTS_TRACEBACK or line is None:
            raise
        print(f"mtl_accum: {line}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
