"""Loggers of training curves: TensorBoard, MLflow, Weights & Biases."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from mtl_accum._knob_rules import flatten

__all__ = ["FaultTolerantLogger", "Logger", "MLflow", "MakeLogger", "TensorBoard", "WeightsAndBiases", "no_logger"]

_LOG = logging.getLogger(__name__)


class Logger(Protocol):
    """Interface of a logger."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of one step.

        Args:
            step: Number of the step.
            values: Values by name; names are paths such as "loss/digit".
        """
        ...

    def close(self) -> None:
        """Close the logger, after the last step."""
        ...


MakeLogger = Callable[[Path, Mapping[str, Any]], Logger]  # makes a logger from a run's folder and configuration


def no_logger() -> None:
    """Make no logger: the target of logger=none."""


class FaultTolerantLogger:
    """Wrapper of a logger that stops logging at the first failure: a full disk or a lost connection is one warning.

    Args:
        logger: Logger to wrap.
    """

    def __init__(self, logger: Logger) -> None:
        self._logger, self._works = logger, True

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        if self._works:
            with self._failures_logged():
                self._logger.log(step, values)

    def close(self) -> None:
        """See `Logger`."""
        with self._failures_logged():
            self._logger.close()

    @contextmanager
    def _failures_logged(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each package has its own
            if self._works:
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                _LOG.warning("the logger failed (%s); training goes on without it", reason)
            self._works = False


class TensorBoard:
    """Logger that writes event files into the run's folder `tensorboard`; view them by `tensorboard --logdir outputs`.

    Args:
        folder: Folder of the run.
        config: Configuration of the run; not written, since the report has it.

    Raises:
        ModuleNotFoundError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        tensorboard = _import("torch.utils.tensorboard", "tensorboard")
        self._hook = threading.excepthook
        threading.excepthook = self._hide_writer_traceback
        try:
            self._writer = tensorboard.SummaryWriter(str(folder / "tensorboard"))
        except BaseException:
            threading.excepthook = self._hook
            raise

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See `Logger`."""
        try:
            self._writer.close()
        finally:
            threading.excepthook = self._hook

    def _hide_writer_traceback(self, arguments: threading.ExceptHookArgs) -> None:
        """Print no traceback of the thread that writes: `log` raises the same error."""
        if not type(arguments.thread).__module__.startswith("tensorboard."):
            self._hook(arguments)


class MLflow:
    """Logger that writes a run of MLflow.

    Args:
        folder: Folder of the run; its name is the name of MLflow's run.
        config: Configuration of the run; its knobs become parameters of MLflow's run.
        experiment: Name of MLflow's experiment.
        tracking_uri: Address of a server; None for the environment variable MLFLOW_TRACKING_URI or MLflow's default.

    Raises:
        ModuleNotFoundError: MLflow is not installed.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        *,
        experiment: str = "mtl_accum",
        tracking_uri: str | None = None,
    ) -> None:
        self._mlflow = _import("mlflow", "mlflow")
        if tracking_uri is not None:
            self._mlflow.set_tracking_uri(tracking_uri)
        self._mlflow.set_experiment(experiment)
        self._mlflow.start_run(run_name=folder.name)
        self._mlflow.log_params({name: str(value)[:500] for name, value in flatten(config)})

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        """See `Logger`."""
        self._mlflow.end_run()


class WeightsAndBiases:
    """Logger that writes a run of Weights & Biases.

    Args:
        folder: Folder of the run, for the files of Weights & Biases too.
        config: Configuration of the run.
        project: Name of the project.
        mode: Mode "online", "offline" or "disabled"; None for the environment variable WANDB_MODE.

    Raises:
        ModuleNotFoundError: The package wandb is not installed.
    """

    def __init__(
        self, folder: Path, config: Mapping[str, Any], *, project: str = "mtl_accum", mode: str | None = None
    ) -> None:
        wandb = _import("wandb", "wandb")
        self._run = wandb.init(project=project, dir=str(folder), name=folder.name, config=dict(config), mode=mode)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """See `Logger`."""
        self._run.finish()


def _import(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"logger={package}: expected the package {package}, found none; "
            f'pip install "mtl-accum[{package}]", or logger=none'
        ) from error
