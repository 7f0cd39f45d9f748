"""The formula against a direct prediction of every schedule, from the costs at two sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product

import pytest
import torch
from _pytest.mark.structures import ParameterSet

from mtl_accum import Accumulated, AsLoss, Cached, Checkpointed, Offloaded, PerTask, Split, SummedLoss
from mtl_accum.planning._costs import CostTable, NetworkCosts, PartCost
from mtl_accum.planning._formula import Tables, estimate, phases
from mtl_accum.planning._measure_costs import measure_costs
from mtl_accum.prediction import DryRun
from mtl_accum.testing import MODES, NETWORKS

SIZES = {
    "convolutional": {"width": 16, "size": 32, "samples": 25},
    "transformer": {"width": 64, "depth": 2, "length": 32, "samples": 25},
    "many_heads": {"heads": 20, "width": 64, "samples": 2049},
}


def schedules(samples: int) -> list[object]:
    return [
        SummedLoss(),
        PerTask(),
        Split(),
        Split(order="reverse"),
        Split(heads_per_graph=2),
        Split(head_chunks=4),
        Cached(samples // 4),
        Cached(samples),
        Cached(samples // 8, head_chunks=3),
        Accumulated(SummedLoss(), 5),
        Accumulated(Split(), 2),
        Accumulated(Split(), 12),
        Accumulated(Split(head_chunks=2), 3),
        Checkpointed(SummedLoss()),
        Checkpointed(Split()),
        Checkpointed(Accumulated(Split(), 3)),
        Checkpointed(Cached(samples // 3)),
    ]


ON_CUDA = [Offloaded(Split()), Offloaded(Checkpointed(Accumulated(Split(), 3)))]


def losses(samples: int) -> list[object]:
    """List the schedules that have a loss, in that form."""
    return [AsLoss(edition) for edition in schedules(samples) if edition != PerTask()]


def compare(
    name: str, mode: str, *, cuda: bool, of: Callable[[int], list[object]] = schedules, third: int | None = None
) -> dict[object, float]:
    """Return the relative error of the formula's peak, by schedule; of every third schedule, or of all."""
    torch.manual_seed(0)
    sizes = SIZES[name]
    samples = sizes["samples"]
    model, batch = NETWORKS[name](mode, **sizes)
    variants = ["", "checkpointed", *(["offloaded", "offloaded, checkpointed"] if cuda else [])]
    parts = (model.trunk, model.tasks, batch, torch.optim.AdamW(model.parameters()))
    with DryRun(parts, cuda=cuda) as dry_run:
        network = measure_costs(dry_run, variants)
        assert (network.samples, network.uncuttable) == (samples, "")
        chosen = [*of(samples), *(ON_CUDA if cuda and of is schedules else [])]
        if third is not None:
            chosen = chosen[third::3]
        direct = {edition: dry_run.step(edition).result().peak_bytes for edition in chosen}
    return {
        edition: estimate(edition, network.tables, samples).peak_bytes / peak - 1 for edition, peak in direct.items()
    }


def cells(networks: Iterable[str], modes: Iterable[str], *quick: tuple[str, str, int]) -> list[ParameterSet]:
    """Combine networks and modes with all schedules, which is slow; beside them, quick cells with a third of these.

    Over the tests of this file, the quick cells hold every mode, device and schedule; the transformer is slow.
    """
    whole = [pytest.param(*cell, None, marks=pytest.mark.slow, id="-".join(cell)) for cell in product(networks, modes)]
    return [*whole, *(pytest.param(*cell, id="-".join(map(str, cell))) for cell in quick)]


@pytest.mark.parametrize(
    ("network", "mode", "third"),
    cells(NETWORKS, ["fp32", "checkpoint"], ("convolutional", "fp32", 0), ("many_heads", "checkpoint", 1)),
)
def test_the_formula_is_a_direct_prediction(network: str, mode: str, third: int | None) -> None:
    for edition, off in compare(network, mode, cuda=False, third=third).items():
        below = 0.021 if mode == "checkpoint" and edition == Cached(SIZES[network]["samples"]) else 1e-4
        assert -below < off < (0.02 if edition == Checkpointed(SummedLoss()) else 0.001), edition


@pytest.mark.parametrize(("network", "mode", "third"), cells(NETWORKS, ["autocast"], ("convolutional", "autocast", 2)))
def test_in_16_bit_it_is_from_above(network: str, mode: str, third: int | None) -> None:
    for edition, off in compare(network, mode, cuda=False, third=third).items():
        assert -1e-4 < off < 0.25, edition


@pytest.mark.parametrize(
    ("network", "mode", "third"),
    cells(["convolutional", "many_heads"], MODES, ("convolutional", "checkpoint", 0)),
)
def test_for_cuda(network: str, mode: str, third: int | None) -> None:
    for edition, off in compare(network, mode, cuda=True, third=third).items():
        below = 0.021 if mode == "checkpoint" and edition == Cached(SIZES[network]["samples"]) else 0.008
        assert -below < off < 0.25, edition  # blocks of 512 bytes round small pieces up


@pytest.mark.parametrize(
    ("network", "mode", "third"),
    [
        *cells(NETWORKS, ["fp32"], ("many_heads", "fp32", 1)),
        *cells(["convolutional"], ["checkpoint"]),
    ],
)
def test_the_formula_of_a_loss_is_a_direct_prediction(network: str, mode: str, third: int | None) -> None:
    for edition, off in compare(network, mode, cuda=False, of=losses, third=third).items():
        assert -0.001 < off < 0.005, edition


@pytest.mark.parametrize(
    ("network", "mode", "cuda", "third"),
    [
        pytest.param("convolutional", "autocast", False, None, marks=pytest.mark.slow),
        pytest.param("many_heads", "fp32", True, None, marks=pytest.mark.slow),
        ("many_heads", "fp32", True, 0),
    ],
)
def test_the_formula_of_a_loss_in_16_bit_and_for_cuda(network: str, mode: str, cuda: bool, third: int | None) -> None:
    for edition, off in compare(network, mode, cuda=cuda, of=losses, third=third).items():
        assert -0.008 < off < 0.25, edition


def test_a_loss_takes_another_pass_where_its_trunk_runs_again_in_the_backward() -> None:
    part = PartCost(forward_seconds=1.0, backward_seconds=2.0)
    whole = NetworkCosts(
        part, PartCost(forward_seconds=1.0), {"a": part, "b": part}, 0.0, 0.0, PartCost(forward_seconds=0.5)
    )
    half = PartCost(forward_seconds=0.5, backward_seconds=1.0)
    halves = NetworkCosts(
        half, PartCost(forward_seconds=0.5), {"a": half, "b": half}, 0.0, 0.0, PartCost(forward_seconds=0.5)
    )
    tables = Tables(0.0, 0.0, {"": CostTable([(4, halves), (8, whole)])})
    for edition in (SummedLoss(), Split(), Split(head_chunks=2), Cached(4)):
        assert estimate(AsLoss(edition), tables, 8).seconds == estimate(edition, tables, 8).seconds
    seconds = estimate(Accumulated(Split(), 2), tables, 8).seconds
    assert estimate(AsLoss(Accumulated(Split(), 2)), tables, 8).seconds == seconds + 1.0


def test_time_is_the_sum_of_the_phases() -> None:
    part = PartCost(forward_seconds=1.0, backward_seconds=2.0)
    whole = NetworkCosts(
        part, PartCost(forward_seconds=1.0), {"a": part, "b": part}, 0.0, 0.0, PartCost(forward_seconds=0.5)
    )
    half = PartCost(forward_seconds=0.5, backward_seconds=1.0)
    halves = NetworkCosts(
        half, PartCost(forward_seconds=0.5), {"a": half, "b": half}, 0.0, 0.0, PartCost(forward_seconds=0.5)
    )
    tables = Tables(0.0, 0.0, {"": CostTable([(4, halves), (8, whole)])}, per_graph=0.25)
    expected = {
        SummedLoss(): 9.25,
        Split(): 9.5,
        Split(heads_per_graph=2): 9.25,
        PerTask(): 12.5,
        Cached(4): 10.5,
        Accumulated(Split(), 2): 9.5,
        Split(head_chunks=2): 9.5,
    }
    assert {edition: estimate(edition, tables, 8).seconds for edition in expected} == expected


def test_a_table_is_linear_in_between_and_beyond() -> None:
    def of(size: float) -> NetworkCosts:
        return NetworkCosts(PartCost(kept=size), PartCost(), {"a": PartCost(gradients=7.0)}, size, 0.0, PartCost())

    table = CostTable([(10, of(100.0)), (20, of(300.0))])
    assert [table.at(n).trunk.kept for n in (10, 15, 20, 30, 4)] == [100.0, 200.0, 300.0, 500.0, 0.0]
    assert table.at(13).heads["a"].gradients == 7.0


def test_an_edition_of_another_package_has_no_formula() -> None:
    with pytest.raises(TypeError, match="no formula for 3"):
        phases(3, None, 1, True)
    with pytest.raises(TypeError, match="no formula for AsLoss.* a dL/dz for each task"):
        phases(AsLoss(Split(), each=True), None, 1, True)
