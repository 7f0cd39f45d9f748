"""A network for measurements in fresh processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mtl_accum import MultiTaskModel, Task
from mtl_accum.models import ConvClassifier, ConvTrunk, DenseHead


def parts() -> tuple[Any, Any, Any, Any]:
    torch.manual_seed(0)
    tasks = {
        "digit": Task(ConvClassifier(16, 10, depth=3), nn.CrossEntropyLoss(), "digit"),
        "denoise": Task(DenseHead(16, depth=3), nn.MSELoss(), "clean"),
        "edges": Task(DenseHead(16, depth=3), nn.L1Loss(), "clean"),
    }
    model = MultiTaskModel(ConvTrunk(width=16, depth=3, dropout=0.2), tasks, "image")
    image = torch.randn(33, 1, 9, 9)
    batch = {"image": image, "clean": image.clone(), "digit": torch.randint(0, 10, (33,))}
    return model.trunk, model.tasks, batch, torch.optim.AdamW(model.parameters())
