"""Evaluation on the test data: the measures and the images of a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mtl_accum.jobs._experiment import Prepared
from mtl_accum.jobs._require import require_each
from mtl_accum.models import MultiTaskModel
from mtl_accum.training.evaluation import EvalMetric, Images, evaluate, image_rows, require_images, require_tasks

__all__ = ["Evaluation"]


@dataclass(frozen=True)
class Evaluation:
    """What is computed on the test data.

    Args:
        measures: Figures of merit, by name.
        images: Images for the report, by name.

    Raises:
        ValueError: An entry is of the wrong kind.
    """

    measures: Mapping[str, EvalMetric] = field(default_factory=dict)
    images: Mapping[str, Images] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_each("measures", self.measures, EvalMetric)
        require_each("images", self.images, Images)

    def require_tasks_of(self, model: MultiTaskModel) -> None:
        """Raise ValueError unless every measure and image is of a task of the model."""
        require_tasks(self.measures, model)
        require_images(self.images, model)

    def measure(self, prepared: Prepared) -> dict[str, float]:
        """Return every figure of merit on the test data, by name."""
        return evaluate(prepared.model, self.measures, prepared.data.test(), device=prepared.device)

    def pictures(self, prepared: Prepared, moment: str) -> dict[str, dict[str, str]]:
        """Return the rows of images of the first test batch, by name.

        Args:
            prepared: Experiment whose model makes the images.
            moment: Moment of training, for the caption.
        """
        return image_rows(prepared.model, self.images, prepared.data, moment, device=prepared.device)
