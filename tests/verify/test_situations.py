"""`check` on every situation of the matrix: it calls no sound edition wrong, and sees what pieces change."""

from __future__ import annotations

import pytest
import torch

from mtl_accum import Accumulated, AsLoss, Cached, PerTask, Split
from mtl_accum.testing import SITUATIONS
from mtl_accum.verify import examine

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

WHOLE = {"per_task": PerTask(), "split": Split(order="reverse"), "split_loss": AsLoss(Split())}
PIECES = {"cached": Cached(4), "accumulated": Accumulated(PerTask(), 2), "cached_loss": AsLoss(Cached(4))}  # of 7
READS_ITS_STATE = {"running state that the forward reads", "running state, checkpointed", "spectral norm"}


@pytest.mark.parametrize("name", SITUATIONS)
def test_no_sound_edition_is_called_wrong(name: str) -> None:
    load = SITUATIONS[name].make(torch.float32)
    result = examine(load.trunk, load.tasks, load.batch, editions={**WHOLE, **PIECES})
    verdicts = {edition: row.verdict for edition, row in result.editions.items()}
    assert {verdicts[edition] for edition in WHOLE} == {"exact"}
    for edition in PIECES:
        row = result.editions[edition]
        if name in READS_ITS_STATE:  # or by name, where an edition knows the module
            assert row.verdict in ("DIFFERS", "refused"), row
        else:
            assert row.passed(), row
