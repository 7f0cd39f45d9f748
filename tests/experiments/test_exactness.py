"""Situations of the field: every cell of the table is as it must be, in the quick tier."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.exactness.field import EDITIONS, bound, outcome
from experiments.exactness.situations import EVERY, SITUATIONS
from mtl_accum import check

pytestmark = pytest.mark.filterwarnings("ignore:Anomaly Detection")


@pytest.mark.parametrize("edition", EVERY)
@pytest.mark.parametrize("name", SITUATIONS)
def test_cell(name: str, edition: Any) -> None:
    situation = SITUATIONS[name]
    result = outcome(situation, EDITIONS[edition])
    if edition in situation.right:
        assert not isinstance(result, Exception), result
        assert result <= bound(situation, EDITIONS[edition])
    elif edition in situation.blind:
        assert not isinstance(result, Exception), result
        assert result > 1e-3, "it is right by now: move it"
    else:
        assert isinstance(result, Exception), f"wrong by {result:.1e} without a word"
        assert "\n" not in str(result).strip()


BLIND = [(name, edition) for name, situation in SITUATIONS.items() for edition in situation.blind]


@pytest.mark.parametrize(("name", "edition"), BLIND)
def test_check_finds_what_no_edition_can_see(name: Any, edition: Any) -> None:
    network = SITUATIONS[name].make()
    report = check(network.trunk, network.tasks, network.batch, editions={"it": EDITIONS[edition]})
    assert not report.passed(), str(report)


def test_the_table_judges() -> None:
    wrong = EDITIONS["Split"]
    situation = SITUATIONS["a gradient injected into the backward"]
    assert outcome(situation, wrong) <= 1e-12
    assert outcome(situation, EDITIONS["PerTask"]) > 0.01
