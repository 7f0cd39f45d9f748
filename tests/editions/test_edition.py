"""A new edition, and a class with nothing but `forward_backward`: each works wherever the package's editions do."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from mtl_accum import (
    Accumulated,
    Checkpointed,
    Offloaded,
    OverBatches,
    Split,
    SummedLoss,
    check,
    compare,
    plan,
    predict,
)
from mtl_accum.editions import Edition, InBackward, require_edition, require_editions
from mtl_accum.planning import _timings, as_dict, format_edition, from_dict, overrides
from mtl_accum.testing import assert_same_gradient, many_heads, vector
from mtl_accum.verify import oracle
from tests.odd_edition import HalvedHeads, Odd

ROOT = Path(__file__).resolve().parents[2]


class Mine:
    """Split, as somebody writes it by hand.

    More of it.
    """

    def forward_backward(self, trunk: Any, tasks: Any, batch: Any) -> Any:
        return Split().forward_backward(trunk, tasks, batch)


def parts() -> tuple[Any, Any, Any, Any]:
    torch.manual_seed(0)
    model, batch = many_heads(heads=3)
    return model.trunk, model.tasks, batch, torch.optim.SGD(model.parameters(), 0.1)


def test_a_new_edition_is_checked() -> None:
    load = vector()
    result = check(load.trunk, load.tasks, load.batch, editions={"halved": HalvedHeads()})
    assert result.editions["halved"].verdict == "exact"


def test_a_new_edition_is_measured_and_predicted() -> None:
    trunk, tasks, batch, optimizer = parts()
    (row,) = compare(trunk, tasks, batch, optimizer=optimizer, editions={"halved": HalvedHeads()}, steps=1)
    assert row.failure is None
    assert row.meaning.startswith("HalvedHeads: the trunk once; all heads in one graph")
    assert row.gradient_difference <= 1e-5
    predicted = predict(trunk, tasks, batch, optimizer=optimizer, edition=HalvedHeads(), device="cpu")
    measured = {record.source: record.peak_bytes for record in row.memory}
    assert predicted.peak_bytes == measured["tensors"]


def test_a_new_edition_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_timings, "PATIENCE", 0.0)
    trunk, tasks, batch, optimizer = parts()
    chosen = plan(trunk, tasks, batch, optimizer=optimizer, budget="1GiB", also=[HalvedHeads()])
    assert HalvedHeads() in [row.edition for row in chosen.largest_batch]
    assert "from SummedLoss" in chosen.exactness["HalvedHeads()"]
    assert "HalvedHeads()" in str(chosen)


def test_an_edition_without_a_formula_is_no_candidate() -> None:
    trunk, tasks, batch, optimizer = parts()
    with pytest.raises(TypeError, match=r"no formula for .*give it one with mtl_accum.planning.phases.register"):
        plan(trunk, tasks, batch, optimizer=optimizer, also=[OverBatches(Split())])


def test_a_new_edition_is_built_from_its_yaml() -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        search_path = f"hydra.searchpath=[file://{ROOT / 'tests' / 'conf'}]"
        nested = Accumulated(HalvedHeads(), 4)
        for edition in (HalvedHeads(), nested):
            config = compose("config", ["+experiment=two_task", *overrides(edition), search_path])
            assert instantiate(config.edition) == instantiate(as_dict(edition)) == edition
    assert format_edition(nested) == "Accumulated(HalvedHeads(), micro_batches=4)"
    with pytest.raises(ValueError, match="_target_ must be one of .*found 'tests.odd_edition.HalvedHeads'"):
        from_dict(as_dict(HalvedHeads()))  # what a file names is not imported


def test_an_edition_without_a_yaml_has_no_overrides() -> None:
    assert overrides(OverBatches(Split())) == overrides(Checkpointed(OverBatches(Split()))) == []


@pytest.mark.parametrize("wrapper", [lambda e: Accumulated(e, 3), Checkpointed, Offloaded], ids=["A", "C", "O"])
@pytest.mark.parametrize("inner", [Mine(), HalvedHeads()], ids=["user's", "new"])
def test_inside_of_other_editions(wrapper: Any, inner: Any) -> None:
    edition = wrapper(inner)
    assert edition.edition is inner
    assert edition == replace(edition) == wrapper(inner)
    assert_same_gradient(edition, lambda: vector(dropout=0.0, trunk_dropout=0.0))


def test_a_window_of_a_users_edition() -> None:
    load = vector(dropout=0.0, trunk_dropout=0.0)
    halves = [{name: tensor[part] for name, tensor in load.batch.items()} for part in (slice(0, 3), slice(3, None))]
    losses = OverBatches(Mine()).forward_backward(load.trunk, load.tasks, halves)
    gradients = load.gradients()
    load.modules.zero_grad()
    expected = SummedLoss().forward_backward(load.trunk, load.tasks, load.batch)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(gradients, load.gradients())


def test_a_users_class_is_checked_measured_and_predicted_by_what_it_is() -> None:
    load = vector()
    result = check(load.trunk, load.tasks, load.batch, editions={"mine": Mine(), "odd": Odd()})
    assert [row.verdict for row in result.editions.values()] == ["exact", "DIFFERS"]
    record = predict(*parts()[:3], edition=Mine(), device="cpu")
    assert record.edition.startswith("<tests.editions.test_edition.Mine object")


def test_the_adapter() -> None:
    mine = Mine()
    edition = require_edition(mine)
    assert isinstance(edition, Edition)
    assert edition == require_edition(mine)
    assert repr(edition) == repr(mine)
    assert edition.summary == "Split, as somebody writes it by hand."
    assert (edition.inner, edition.cuts(4), edition.passes(4), edition.leaves_gradients) == (None, [], (), True)
    assert isinstance(pickle.loads(pickle.dumps(edition)), Edition)
    assert oracle(edition) == oracle(mine) == SummedLoss()
    split = Split()
    assert require_edition(split) is split
    assert list(require_editions({"a": mine, "b": split})) == ["a", "b"]


def test_an_edition_of_ones_own_may_derive_from_the_base_class_alone() -> None:
    class Derived(Edition):
        def forward_backward(self, trunk: Any, tasks: Any, batch: Any) -> Any:
            return Split().forward_backward(trunk, tasks, batch)

    assert_same_gradient(Derived(), vector)
    assert Derived().summary == "Derived"
    with pytest.raises(TypeError, match=r"Derived has no loss, only forward_backward; .*Split\(\)"):
        load = vector()
        Accumulated(Derived(), 2).loss(load.trunk, load.tasks, load.batch)


def test_what_wrappers_say_of_the_edition_inside() -> None:
    inner = Split(head_chunks=2)
    model = torch.nn.Linear(1, 1)
    for edition in (Checkpointed(inner), Offloaded(inner)):
        assert edition.inner is inner
        assert edition.cuts(4) == inner.cuts(4) == [(0, 2), (2, 4)]
        assert edition.passes(4) == (2,)
    assert Accumulated(inner, 2).cuts(4) == [(0, 2), (2, 4), (0, 1), (1, 2), (2, 3), (3, 4)]
    assert OverBatches(inner).cuts(4) == []
    stepping = InBackward(Split(), torch.optim.SGD(model.parameters()))
    assert (stepping.inner, stepping.leaves_gradients) == (Split(), False)
