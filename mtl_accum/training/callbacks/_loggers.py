"""Where training curves go: TensorBoard, MLflow or Weights & Biases, behind two methods."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from mtl_accum._knob_rules import flatten

__all__ = ["Dispensable", "Logger", "MLflow", "MakeLogger", "TensorBoard", "WeightsAndBiases", "no_logger"]

_LOG = logging.getLogger(__name__)


class Logger(Protocol):
    """Takes figures by name."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Those of one step; names are paths: "loss/digit"."""
        ...

    def close(self) -> None:
        """There is nothing more to come."""
        ...


MakeLogger = Callable[[Path, Mapping[str, Any]], Logger]  # from the run's folder and its configuration


def no_logger() -> None:
    """Tells nobody: what logger=none stands for."""


class Dispensable:
    """A logger that training does without once it fails: a full disk or a lost connection is one line.

    Args:
        logger: Takes the figures as long as it can.
    """

    def __init__(self, logger: Logger) -> None:
        self._logger, self._works = logger, True

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        if self._works:
            with self._reported():
                self._logger.log(step, values)

    def close(self) -> None:
        """See `Logger`."""
        with self._reported():
            self._logger.close()

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever the package behind it raises
            if self._works:
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                _LOG.warning("the logger failed (%s); training goes on without it", reason)
            self._works = False


class TensorBoard:
    """Event files in the folder `tensorboard` of the run: `tensorboard --logdir outputs`.

    Args:
        folder: of the run.
        config: is not written; it stands in the report.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        tensorboard = _required("torch.utils.tensorboard", "tensorboard")
        self._hook = threading.excepthook
        threading.excepthook = self._in_thread
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

    def _in_thread(self, arguments: threading.ExceptHookArgs) -> None:
        """Leave out the traceback of the thread that writes: `log` raises the same error."""
        if not type(arguments.thread).__module__.startswith("tensorboard."):
            self._hook(arguments)


class MLflow:
    """A run of MLflow.

    Args:
        folder: of the run; its name is the run's.
        config: its knobs become the run's parameters.
        experiment: of MLflow.
        tracking_uri: a server, or None: what MLFLOW_TRACKING_URI says, else MLflow's own folder.

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
        self._mlflow = _required("mlflow", "mlflow")
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
    """A run of Weights & Biases.

    Args:
        folder: of the run; its files go there.
        config: the run's.
        project: of Weights & Biases.
        mode: "online", "offline" or "disabled"; None is what WANDB_MODE says.

    Raises:
        ModuleNotFoundError: it is not installed.
    """

    def __init__(
        self, folder: Path, config: Mapping[str, Any], *, project: str = "mtl_accum", mode: str | None = None
    ) -> None:
        wandb = _required("wandb", "wandb")
        self._run = wandb.init(project=project, dir=str(folder), name=folder.name, config=dict(config), mode=mode)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """See `Logger`."""
        self._run.finish()


def _required(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"logger={package}: expected the package {package}, found none; "
            f'pip install "mtl-accum[{package}]", or logger=none'
        ) from error
