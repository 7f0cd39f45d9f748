"""Schedules in writing: on the command line, for people, in a checkpoint, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from mtl_accum import Accumulated, AsLoss, Cached, Checkpointed, Edition, Offloaded, PerTask, Split, SummedLoss
from mtl_accum.planning import as_dict, format_edition, from_dict, overrides
from mtl_accum.planning._schedule_space import candidates

ROOT = Path(__file__).resolve().parents[2]
OTHERS = [Split(order="reverse"), Cached(3, 1, True), AsLoss(Split(head_chunks=2), each=True), AsLoss(Cached(3))]


def test_overrides_make_it_again() -> None:
    chosen = candidates(4, 8)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for edition in [*chosen[:40:3], *chosen[-40::3], PerTask(), *OTHERS]:
            config = compose("config", ["+experiment=two_task", *overrides(edition)])
            assert instantiate(config.edition) == instantiate(as_dict(edition)) == edition


def test_overrides_are_what_a_person_would_write() -> None:
    assert overrides(Split()) == ["edition=split"]
    assert overrides(AsLoss(Split())) == ["edition=as_loss", "edition@edition.edition=split"]
    assert overrides(Checkpointed(Accumulated(Split(heads_per_graph=2), 4))) == [
        "edition=checkpointed",
        "edition@edition.edition=accumulated",
        "edition@edition.edition.edition=split",
        "edition.edition.edition.heads_per_graph=2",
        "edition.edition.micro_batches=4",
    ]


@pytest.mark.parametrize(
    ("edition", "text"),
    [
        (SummedLoss(), "SummedLoss()"),
        (Split(head_chunks=2, order="reverse"), "Split(head_chunks=2, order='reverse')"),
        (Cached(8), "Cached(chunk_size=8)"),
        (AsLoss(Split(heads_per_graph=2)), "AsLoss(Split(heads_per_graph=2))"),
        (
            Offloaded(Checkpointed(Accumulated(Split(), 4))),
            "Offloaded(Checkpointed(Accumulated(Split(), micro_batches=4)))",
        ),
    ],
)
def test_a_person_reads_python(edition: Edition, text: str) -> None:
    assert format_edition(edition) == text
    assert eval(text) == edition


def test_a_checkpoint_holds_it() -> None:
    for edition in [*candidates(5, 16), PerTask(), *OTHERS]:
        assert from_dict(json.loads(json.dumps(as_dict(edition)))) == edition


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"_target_": "os.system"}, "_target_ must be one of mtl_accum.Accumulated, .*; found 'os.system'"),
        ({}, "found None"),
        ({"_target_": "mtl_accum.Split", "chunks": 2}, "mtl_accum.Split: .* unexpected keyword argument 'chunks'"),
        ({"_target_": "mtl_accum.Split", "head_chunks": 0}, "head_chunks"),
        ({"_target_": "mtl_accum.Accumulated", "edition": {"_target_": "Split"}, "micro_batches": 2}, "found 'Split'"),
    ],
)
def test_what_is_no_schedule(written: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_dict(written)
