"""Ready-made counts are the denominators of torch's own means."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from mtl_accum import count_labels, count_mask, count_present

LABELS = torch.tensor([[0, -100, 2], [1, 1, -100]])


def test_labels() -> None:
    logits = torch.randn(2, 3, 3)
    count = count_labels("y")({"y": LABELS})
    assert count == 4
    torch.testing.assert_close(
        F.cross_entropy(logits, LABELS, reduction="sum") / count, F.cross_entropy(logits, LABELS)
    )


def test_class_weights() -> None:
    logits, weight = torch.randn(2, 3, 3), torch.tensor([1.0, 2.0, 5.0])
    count = count_labels(lambda b: b[0], ignore_index=-100, weight=weight)([LABELS])
    assert count == 1 + 2 + 2 + 5
    torch.testing.assert_close(
        F.cross_entropy(logits, LABELS, weight, reduction="sum") / count, F.cross_entropy(logits, LABELS, weight)
    )


def test_mask_and_missing_values() -> None:
    batch = {"m": torch.tensor([[True, False], [True, True]]), "y": torch.tensor([1.0, float("nan")])}
    assert count_mask("m")(batch) == 3
    assert count_present("y")(batch) == 1
