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
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtl_accum._validate import natural

if TYPE_CHECKING:
    from omegaconf import DictConfig

_PACKAGE = Path(__file__).resolve().parent
_CONF = next((home / "conf" for home in (_PACKAGE, _PACKAGE.parent) if (home / "conf").is_dir()), _PACKAGE / "conf")
_INTERRUPTED = 130  # 128 + SIGINT, as shells say it
_WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"


@hydra.main(version_base="1.3", config_path=str(_CONF), config_name="config")
def _run(config: DictConfig) -> None:
    with _one_line_errors():  # here too: Hydra would write a line of its own about a job that failed
        if config.job is None:
            raise ValueError("job must be one of train, check, plan, predict; found none")
        if "seed" in config.job:
            natural("seed", config.job.seed)
            import torch

            torch.manual_seed(config.job.seed)  # before the model draws its weights
        job = instantiate(config.job)
        from mtl_accum.training import Run

        overrides = HydraConfig.get().overrides.task
        job(
            run=Run(
                folder=Path(HydraConfig.get().runtime.output_dir),
                command=shlex.join(["python", "-m", "mtl_accum", *overrides]),
                config=OmegaConf.to_container(config, resolve=True),  # type: ignore[arg-type]
            )
        )


def main() -> None:
    """Run the job that the command line names; exit with 1 and one line for what the user can mend."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises in place of printing and exiting
    with _one_line_errors():
        _run()


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        print("mtl_accum: interrupted; no report was written", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except Exception as error:
        cause, where = _cause(error)
        if _WANTS_TRACEBACK or not _is_for_the_user(cause, error):
            raise
        print(f"mtl_accum: {where}{_one_line(cause)}", file=sys.stderr)
        sys.exit(1)


def _cause(error: BaseException) -> tuple[BaseException, str]:
    """What was behind Hydra's error about not being able to instantiate something, and where in the config."""
    where = ""
    unlocated = "Error locating target"  # names the target; the cause would not
    while isinstance(error, InstantiationException) and error.__cause__ and not str(error).startswith(unlocated):
        key = re.search(r"^full_key: job\.(.+)$", str(error), re.MULTILINE)
        where = f"{key[1]}: " if key else where
        error = error.__cause__
    return error, where


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
