"""Predictions for mixtures of experts: grouped matrix products, and experts that values choose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_accum import SummedLoss, Task, predict
from mtl_accum.prediction import PredictionError
from tests.prediction.against_the_meter import assert_equal_to_the_byte, predicted_and_measured

EXPERTS = 4
ROWS = {  # of each expert
    "bincount": lambda chosen: torch.bincount(chosen, minlength=EXPERTS),
    "histc": lambda chosen: torch.histc(chosen.float(), bins=EXPERTS, min=0, max=EXPERTS - 1),
    "one_hot": lambda chosen: F.one_hot(chosen, EXPERTS).sum(0),
    "weighted": lambda chosen: torch.bincount(chosen, torch.ones(len(chosen)), EXPERTS),
}
PRODUCTS = [torch._grouped_mm] + ([F.grouped_mm] if hasattr(F, "grouped_mm") else [])


class Grouped(nn.Module):
    """The two best experts of each sample, all in two grouped matrix products."""

    def __init__(
        self, product: Any, rows: str = "bincount", dtype: torch.dtype = torch.float32, *, columns: bool = False
    ) -> None:
        super().__init__()
        self.product, self.rows, self.columns = product, ROWS[rows], columns
        self.router = nn.Linear(8, EXPERTS, dtype=dtype)
        self.up = nn.Parameter(torch.randn(EXPERTS, 8, 16, dtype=dtype))
        shape = (EXPERTS, 8, 16) if columns else (EXPERTS, 16, 8)
        self.down = nn.Parameter(torch.randn(shape, dtype=dtype))

    def forward(self, batch: Any) -> Any:
        x = batch["x"].to(self.up.dtype)
        weights, chosen = self.router(x).softmax(-1).topk(2)
        order = chosen.flatten().argsort()
        ends = self.rows(chosen.flatten()).cumsum(0).to(torch.int32)
        hidden = F.silu(self.product(x[order // 2], self.up, offs=ends))
        out = self.product(hidden, self.down.transpose(1, 2) if self.columns else self.down, offs=ends)
        return torch.zeros_like(x).index_add(0, order // 2, out * weights.flatten()[order, None]).float()


def network(trunk: Any) -> tuple[Any, dict[str, Any], Any]:
    batch = {"x": torch.randn(16, 8), "y": torch.randn(16, 1)}
    return trunk, {name: Task(nn.Linear(8, 1), F.mse_loss, "y") for name in "ab"}, batch


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("product", PRODUCTS)
def test_a_grouped_product_equals_the_meter_to_the_byte(product: Any, dtype: torch.dtype) -> None:
    predicted, measured = predicted_and_measured(*network(Grouped(product, dtype=dtype)))
    assert_equal_to_the_byte(predicted, measured)
    assert predicted.caveats == ()


@pytest.mark.parametrize("rows", ROWS)
def test_however_the_rows_of_an_expert_are_counted(rows: str) -> None:
    predicted, measured = predicted_and_measured(*network(Grouped(torch._grouped_mm, rows)), SummedLoss())
    assert_equal_to_the_byte(predicted, measured)


def test_matrices_by_columns() -> None:
    predicted, measured = predicted_and_measured(*network(Grouped(torch._grouped_mm, columns=True)))
    assert_equal_to_the_byte(predicted, measured)


def test_a_grouped_product_for_cuda() -> None:
    trunk, tasks, batch = network(Grouped(torch._grouped_mm))
    assert predict(trunk, tasks, batch, edition=SummedLoss()).peak_bytes > 0


def test_a_wrong_grouped_product_fails_as_it_does_with_data() -> None:
    trunk, tasks, batch = network(Grouped(torch._grouped_mm))
    trunk.up = nn.Parameter(torch.randn(EXPERTS, 12, 16))
    with pytest.raises(RuntimeError, match="contraction dimension"):
        trunk(batch)
    with pytest.raises(RuntimeError, match="contraction dimension"):
        predict(trunk, tasks, batch, edition=SummedLoss(), device="cpu")


class Experts(nn.Module):
    """Experts that take the rows which a function of the choice and the samples gives them."""

    def __init__(self, rows: Any) -> None:
        super().__init__()
        self.rows = rows
        self.router, self.experts = nn.Linear(8, EXPERTS), nn.ModuleList(nn.Linear(8, 8) for _ in range(EXPERTS))

    def forward(self, batch: Any) -> Tensor:
        x = batch["x"]
        parts = self.rows(self.router(x).argmax(-1), x)
        return torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (lambda chosen, x: x.split(torch.bincount(chosen, minlength=EXPERTS).tolist()), "split_sizes to sum exactly"),
        (lambda chosen, x: x.split([int((chosen == i).sum()) for i in range(EXPERTS)]), "split_sizes to sum exactly"),
        (lambda chosen, x: x.split((chosen == 0).sum().item() * [1])[1:], "IndexError|split_sizes to sum exactly"),
        (lambda chosen, x: x.split(torch.bincount(chosen).tolist()), r"shapes depend on values.*bincount"),
    ],
    ids=["counts", "sums", "one", "no minlength"],
)
def test_sizes_that_are_values_are_one_sentence(rows: Callable[..., Any], expected: str) -> None:
    trunk, tasks, batch = network(Experts(rows))
    with pytest.raises(PredictionError, match=expected) as caught:
        predict(trunk, tasks, batch, edition=SummedLoss(), device="cpu")
    assert "measure with compare instead" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("compare", "expected"),
    [
        (lambda value: value == EXPERTS, False),
        (lambda value: value != EXPERTS, True),
        (lambda value: value > 1, False),
        (lambda value: value >= 1.0, True),
        (lambda value: value.bool(), True),
    ],
    ids=["==", "!=", ">", ">=", "bool"],
)
def test_a_value_that_is_read_is_one_in_a_comparison_too(compare: Callable[..., Any], expected: bool) -> None:
    """A loop over experts that ends at the number of experts is not left at the first of them."""
    answers = []

    def rows(chosen: Any, x: Any) -> Any:
        answers.append(bool(compare(chosen[0])))
        return x.split(len(x) // EXPERTS)

    trunk, tasks, batch = network(Experts(rows))
    found = predict(trunk, tasks, batch, edition=SummedLoss(), device="cpu")
    assert set(answers) == {expected}
    assert found.caveats[0].startswith("the network read 1 values")
