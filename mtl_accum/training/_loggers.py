"""Where training curves go: TensorBoard, MLflow or Weights & Biases, behind two methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Logger", "MLflow", "MakeLogger", "TensorBoard", "WeightsAndBiases", "no_logger"]


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


class TensorBoard:
    """Event files in the folder `tensorboard` of the run: `tensorboard --logdir outputs`.

    Args:
        folder: of the run.
        config: is not written; it stands in the report.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self._writer = _required("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(folder / "tensorboard"))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See `Logger`."""
        self._writer.close()


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
        self._mlflow.log_params({name: str(value)[:500] for name, value in _flat(config)})

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


def _flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Knobs by their dotted names."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{place}.{key}" if place else str(key))
    else:
        yield place, value
