"""Denominators of losses in pieces of a batch: known for every torch loss; unknown ones are refused, only there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_accum import (
    Accumulated,
    Cached,
    Edition,
    MultiTaskModel,
    OverBatches,
    Split,
    SummedLoss,
    Task,
    count_labels,
    count_mask,
)
from mtl_accum.editions._engine.batch._cutting import take
from mtl_accum.verify._difference import gradient_difference

SAMPLES, CLASSES = 7, 4
IN_PIECES = [Split(head_chunks=3), Accumulated(Split(), micro_batches=2), Accumulated(Cached(2, head_chunks=2), 2)]
WEIGHT = torch.tensor([0.5, 3.0, 1.0, 0.25], dtype=torch.float64)


def target(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, CLASSES, (SAMPLES,), generator=generator)
    values = torch.rand(SAMPLES, CLASSES, generator=generator, dtype=torch.float64)
    if kind == "labels":
        return labels
    if kind.startswith("holes"):  # in some pieces more than in others; one piece has no label at all
        labels[[0, 1, 2, 5]] = int(kind.split()[1])
        return labels
    return {"values": values, "chances": values / values.sum(1, keepdim=True), "signs": values.round() * 2 - 1}[kind]


LOSSES = {
    "cross-entropy": (nn.CrossEntropyLoss(), "labels"),
    "cross-entropy, ignored labels": (nn.CrossEntropyLoss(), "holes -100"),
    "cross-entropy, ignore_index": (nn.CrossEntropyLoss(ignore_index=2), "labels"),
    "cross-entropy, class weights": (nn.CrossEntropyLoss(WEIGHT), "labels"),
    "cross-entropy, class weights, ignored labels": (nn.CrossEntropyLoss(WEIGHT, ignore_index=255), "holes 255"),
    "cross-entropy, smoothed": (nn.CrossEntropyLoss(WEIGHT, ignore_index=-1, label_smoothing=0.1), "holes -1"),
    "cross-entropy of chances": (nn.CrossEntropyLoss(WEIGHT), "chances"),
    "cross-entropy, summed": (nn.CrossEntropyLoss(WEIGHT, reduction="sum"), "holes -100"),
    "cross-entropy, function": (F.cross_entropy, "holes -100"),
    "cross-entropy, partial": (partial(F.cross_entropy, weight=WEIGHT, ignore_index=255), "holes 255"),
    "cross-entropy, partial sum": (partial(F.cross_entropy, reduction="sum"), "labels"),
    "likelihood": (nn.NLLLoss(WEIGHT), "holes -100"),
    "squares": (nn.MSELoss(), "values"),
    "squares, summed": (nn.MSELoss(reduction="sum"), "values"),
    "squares, function": (F.mse_loss, "values"),
    "absolute, summed": (partial(F.l1_loss, reduction="sum"), "values"),
    "huber": (nn.HuberLoss(), "values"),
    "smooth": (nn.SmoothL1Loss(), "values"),
    "logits": (nn.BCEWithLogitsLoss(weight=WEIGHT, pos_weight=WEIGHT), "values"),
    "margin": (nn.SoftMarginLoss(), "signs"),
    "multi-margin": (nn.MultiMarginLoss(weight=WEIGHT), "labels"),
    "many labels": (nn.MultiLabelSoftMarginLoss(), "values"),
    "divergence": (nn.KLDivLoss(reduction="batchmean"), "chances"),
    "divergence, summed": (nn.KLDivLoss(reduction="sum"), "chances"),
    "poisson": (nn.PoissonNLLLoss(), "values"),
    "a function that calls one": (lambda out, y: F.cross_entropy(out, y), "labels"),
}


def network(loss: Callable[..., Any] | nn.Module, **options: Any) -> MultiTaskModel:
    torch.manual_seed(0)
    return MultiTaskModel(nn.Linear(5, 6), {"t": Task(nn.Linear(6, CLASSES), loss, "y", **options)}, "x").double()


def gradients(
    model: MultiTaskModel, edition: Edition, batch: dict[str, Tensor] | list[dict[str, Tensor]]
) -> dict[str, Any] | None:
    model.zero_grad()
    losses = edition.forward_backward(model.trunk, model.tasks, batch)
    return {name: parameter.grad for name, parameter in model.named_parameters()} | losses


def batch_of(kind: str) -> dict[str, torch.Tensor]:
    x = torch.randn(SAMPLES, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return {"x": x, "y": target(kind)}


@pytest.mark.parametrize("case", LOSSES)
def test_pieces_and_windows_weigh_by_the_losses_own_denominator(case: str) -> None:
    loss, kind = LOSSES[case]
    model, batch = network(loss), batch_of(kind)
    model.zero_grad()
    value = model.tasks["t"](model.trunk(batch), batch)
    value.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()} | {"t": value.detach()}
    for edition in IN_PIECES:
        assert gradient_difference(gradients(model, edition, batch), expected) <= 1e-12
        window = [take(batch, cut) for cut in ((0, 3), (3, 5), (5, 7))]
        assert gradient_difference(gradients(model, OverBatches(edition), window), expected) <= 1e-12


def test_a_whole_batch_reads_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: pytest.fail("a synchronisation"))
    model = network(nn.CrossEntropyLoss(WEIGHT))
    gradients(model, Split(), batch_of("holes -100"))
    gradients(model, OverBatches(Split()), [batch_of("holes -100")])


INNER = nn.CrossEntropyLoss(ignore_index=255)


class DiceLoss(nn.Module):
    def forward(self, output: Tensor, y: Tensor) -> Tensor:
        output = output.softmax(1)[:, 0]
        return 1 - 2 * (output * (y == 0)).sum() / (output.sum() + (y == 0).sum())


class FocalLoss(nn.CrossEntropyLoss):
    """Inherits everything from torch's, and is another loss."""

    def forward(self, output: Tensor, y: Tensor) -> Tensor:
        return ((1 - output.softmax(1).gather(1, y[:, None])) ** 2).mean()


class Ohem(nn.Module):
    def forward(self, output: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(output, y, reduction="none").topk(3).values.mean()


def tversky_loss(output: Tensor, y: Tensor) -> Tensor:
    return DiceLoss()(output, y)


UNTOLD = {
    "Dice": (DiceLoss(), "labels", "DiceLoss is no mean over samples.* declare couples_samples=True"),
    "OHEM": (Ohem(), "labels", "Ohem is no mean over samples"),
    "a function with a name": (tversky_loss, "labels", "tversky_loss is no mean over samples"),
    "a subclass": (
        FocalLoss(),
        "labels",
        r"FocalLoss leaves out labels \(ignore_index=-100\).* count=, e.g. count_labels",
    ),
    "a cross-entropy inside": (
        lambda out, y: INNER(out, y),
        "holes 255",
        r"count gives samples \(\d, \d\) .* give that denominator",
    ),
    "a function of one": (lambda out, y: F.cross_entropy(out, y), "holes -100", "labels that it leaves out"),
}


@pytest.mark.parametrize("edition", IN_PIECES, ids=repr)
@pytest.mark.parametrize("case", UNTOLD)
def test_an_unknown_denominator_is_refused_in_pieces_alone(case: str, edition: Edition) -> None:
    loss, kind, message = UNTOLD[case]
    model, batch = network(loss), batch_of(kind)
    with pytest.raises(ValueError, match=f"^task 't': .*{message}"):
        gradients(model, edition, batch)
    with pytest.raises(ValueError, match=f"^task 't': .*{message}"):
        gradients(model, OverBatches(Split()), [take(batch, (0, 4)), take(batch, (4, 7))])
    expected = gradients(model, SummedLoss(), batch)
    assert gradient_difference(gradients(model, Split(), batch), expected) <= 1e-12


def test_with_a_count_the_refused_ones_run() -> None:
    model = network(lambda out, y: F.cross_entropy(out, y), count=count_labels("y"))
    batch = batch_of("holes -100")
    expected = gradients(model, SummedLoss(), batch)
    for edition in IN_PIECES:
        assert gradient_difference(gradients(model, edition, batch), expected) <= 1e-12
    with pytest.raises(ValueError, match="declares couples_samples=True"):
        gradients(network(DiceLoss(), couples_samples=True), IN_PIECES[0], batch_of("labels"))


def test_a_clamped_count_of_labels_is_exact() -> None:
    """A piece without labels counts 1, although the cross-entropy of no labels is NaN."""
    model = network(nn.CrossEntropyLoss(), count=lambda batch: (batch["y"] != -100).sum().clamp(min=1))
    batch = batch_of("holes -100")
    expected = gradients(model, SummedLoss(), batch)
    for edition in (*IN_PIECES, Accumulated(SummedLoss(), micro_batches=7)):
        assert gradient_difference(gradients(model, edition, batch), expected) <= 1e-12


CONTRADICTIONS = {
    "a mask on a mean over everything": (nn.MSELoss(), "values", count_mask("m")),
    "another ignored label": (nn.CrossEntropyLoss(), "holes -100", count_labels("y", ignore_index=1)),
    "class weights left out": (nn.CrossEntropyLoss(WEIGHT), "labels", count_labels("y")),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_count_that_contradicts_the_loss_is_an_error(case: str) -> None:
    loss, kind, count = CONTRADICTIONS[case]
    batch = batch_of(kind) | {"m": torch.tensor([1.0, 0, 0, 1, 1, 1, 0])}
    for edition in IN_PIECES:
        with pytest.raises(ValueError, match="task 't': count gives samples .* leave count out"):
            gradients(network(loss, count=count), edition, batch)


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (nn.MSELoss(), {"reduction": "sum"}, r"reduction='sum' contradicts the loss, MSELoss\(\), whose own is 'mean'"),
        (nn.MSELoss(reduction="sum"), {"reduction": "mean"}, "contradicts the loss"),
        (nn.MSELoss(reduction="sum"), {"count": len}, "count is the denominator of a mean, but the loss is a sum"),
        (lambda out, y: out.sum(), {"reduction": "sum", "count": len}, "the loss is a sum; leave count out"),
        (lambda out, y: out.sum(), {"reduction": "none"}, "reduction must be 'mean' or 'sum', found 'none'"),
    ],
)
def test_one_truth_about_the_reduction(
    loss: Callable[..., Any] | nn.Module, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        network(loss, **options)


def test_a_custom_sum_is_declared() -> None:
    model, batch = network(lambda out, y: (out - y).square().sum(), reduction="sum"), batch_of("values")
    expected = gradients(model, SummedLoss(), batch)
    for edition in (*IN_PIECES, OverBatches(Split())):
        pieces = [take(batch, (0, 3)), take(batch, (3, 7))] if isinstance(edition, OverBatches) else batch
        assert gradient_difference(gradients(model, edition, pieces), expected) <= 1e-12


def test_a_function_may_declare_itself_a_sum() -> None:
    def total(z: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return (z - batch["y"][:, :1]).square().sum()

    total.reduction = "sum"  # type: ignore[attr-defined]
    lin, batch = nn.Linear(5, 6).double(), batch_of("values")
    Split().forward_backward(lambda b: lin(b["x"]), {"t": total}, batch)
    expected, lin.weight.grad = lin.weight.grad, None
    Accumulated(Split(), 3).forward_backward(lambda b: lin(b["x"]), {"t": total}, batch)
    torch.testing.assert_close(lin.weight.grad, expected, rtol=1e-12, atol=0)


def test_a_count_of_a_subclass_still_decides_who_is_absent() -> None:
    class Never(Task):
        def count(self, batch: dict[str, Tensor]) -> int:
            return 0

    torch.manual_seed(0)
    model = MultiTaskModel(nn.Linear(5, 6), {"t": Never(nn.Linear(6, 4), nn.MSELoss(), "y")}, "x").double()
    for edition in (SummedLoss(), *IN_PIECES):
        assert gradients(model, edition, batch_of("values"))["t"] == 0
        assert model.tasks["t"].head.weight.grad is None
