"""The prediction of the real shapes, at a size that takes a moment."""

from __future__ import annotations

import pytest

from experiments.full_size.run import predicted, table


@pytest.mark.slow
def test_peaks_and_refusals() -> None:
    found = {
        "dense3": predicted("dense3", (), 0.05),
        "lm_heads": predicted("lm_heads", ("model.chunks=2",), 0.03),
    }
    assert found["dense3"]["peak"]["split"] <= found["dense3"]["peak"]["summed"], "its peak is the optimizer's here"
    assert found["lm_heads"]["peak"]["split"] < found["lm_heads"]["peak"]["summed"]
    assert "batch statistics" in found["dense3"]["peak"]["cached"]
    assert found["lm_heads"]["peak"]["cached"] < found["lm_heads"]["peak"]["split"]
    heading, *rows = table(found)
    assert [len(row) for row in rows] == [len(heading)] * 2
    assert rows[0][-2] == "refused"
