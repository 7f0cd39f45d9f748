"""The command line: find the configuration, instantiate the job, run it, put errors into one line."""

from __future__ import annotations

import os
import re
import shlex
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from mtl_accum._lock import only_process_in
from mtl_accum._logs import complain_once
from mtl_accum._run import Run
from mtl_accum._sweep import SweepReport
from mtl_accum._validate import natural

if TYPE_CHECKING:
    from omegaconf import DictConfig

_PACKAGE = Path(__file__).resolve().parent
_CONF = next((home / "conf" for home in (_PACKAGE, _PACKAGE.parent) if (home / "conf").is_dir()), _PACKAGE / "conf")
_INTERRUPTED = 130  # 128 + SIGINT, as shells say it
_WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"


@hydra.main(version_base="1.3", config_path=str(_CONF), config_name="config")
def _run(config: DictConfig) -> None:
    in_sweep = HydraConfig.get().mode is RunMode.MULTIRUN
    complain_once()
    with _reported(config, in_sweep):
        if in_sweep:
            _measure_own_edition_only(config)
        if config.job is None:
            raise ValueError("job must be one of train, compare, check, predict, plan, report, evaluate; found none")
        if "seed" in config.job:
            natural("seed", config.job.seed)
            import torch

            torch.manual_seed(config.job.seed)  # before the model draws its weights
        job = instantiate(config.job)
        job(
            run=Run(
                folder=_folder(),
                command=_command(),
                config=OmegaConf.to_container(config, resolve=True),  # type: ignore[arg-type]
            )
        )


def main() -> None:
    """Run the job that the command line names; exit with 1 and one line for what the user can mend."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises in place of printing and exiting
    with _one_line_errors():
        _run()
    if SweepReport.failed:
        print(f"mtl_accum: {SweepReport.failed}", file=sys.stderr)
        sys.exit(1)


def _folder() -> Path:
    folder, here = Path(HydraConfig.get().runtime.output_dir), Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def _command() -> str:
    return shlex.join(["python", "-m", "mtl_accum", *HydraConfig.get().overrides.task])


def _measure_own_edition_only(config: DictConfig) -> None:
    """A sweep compares jobs: one that measured all editions would measure them again and again."""
    name = HydraConfig.get().runtime.choices["edition"]
    with open_dict(config):
        config.compare.editions = {name: config.edition}


@contextmanager
def _reported(config: DictConfig, in_sweep: bool) -> Iterator[None]:
    """Alone in the folder, with failures reported there: a process that is not alone leaves nothing in it."""
    if in_sweep:
        with only_process_in(_folder()), _kept_failures(config):
            yield
    else:
        with _one_line_errors(), only_process_in(_folder()):  # here too: Hydra would add a line about the failed job
            yield


@contextmanager
def _kept_failures(config: DictConfig) -> Iterator[None]:
    """A job of a sweep that fails leaves its reason in its folder, and the sweep goes on."""
    try:
        yield
    except Exception as error:
        from mtl_accum import report

        if hasattr(error, "exit_code"):  # a signal: the sweep ends too
            raise
        cause, reason = _explained(error)
        expected = _is_for_the_user(cause, error)
        reason = reason if expected else f"{type(cause).__name__}: {_one_line(cause)}"
        failure = {"command": _command(), "reason": reason, "config": OmegaConf.to_container(config)}
        report.write_failure(failure, _folder())
        if _WANTS_TRACEBACK or not expected:
            traceback.print_exc()
        print(f"mtl_accum: job {HydraConfig.get().job.num}: {reason}", file=sys.stderr)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        print(f"mtl_accum: interrupted; {SweepReport.so_far or 'no report was written'}", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except Exception as error:
        cause, line = _explained(error)
        if hasattr(error, "exit_code"):  # a signal asked for the end, and got it
            print(f"mtl_accum: {line}", file=sys.stderr)
            sys.exit(error.exit_code)
        if _WANTS_TRACEBACK or not _is_for_the_user(cause, error):
            raise
        print(f"mtl_accum: {line}", file=sys.stderr)
        sys.exit(1)


def _explained(error: BaseException) -> tuple[BaseException, str]:
    """What was behind Hydra's error about not being able to instantiate something; and one line, with the place."""
    where = ""
    unlocated = "Error locating target"  # names the target; the cause would not
    while isinstance(error, InstantiationException) and error.__cause__ and not str(error).startswith(unlocated):
        key = re.search(r"^full_key: job\.(.+)$", str(error), re.MULTILINE)
        where = f"{key[1]}: " if key else where
        error = error.__cause__
    return error, f"{where}{_one_line(error)}"


def _is_for_the_user(cause: BaseException, error: BaseException) -> bool:
    """Whether the message alone says what to mend: a configuration's error, the system's, or one of ours."""
    if isinstance(cause, HydraException | OmegaConfBaseException | OSError):
        return True
    deliberate = isinstance(cause, ValueError | TypeError | FloatingPointError | MemoryError)
    raised_in = Path(traceback.extract_tb(cause.__traceback__)[-1].filename)
    return deliberate and (isinstance(error, InstantiationException) or raised_in.is_relative_to(_PACKAGE))


def _one_line(error: BaseException) -> str:
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        options = f"expected one of {', '.join(sorted(error.options))}; " if error.options else ""
        return f"{group or 'config'}={name}: {options}found no {group} of that name"
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())


if __name__ == "__main__":
    main()
