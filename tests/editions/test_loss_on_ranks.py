"""Losses on two ranks equal one process on the whole batch, whichever engine averages the gradients."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from tests.editions import rank_calls as calls
from tests.editions.rank_cases import ENGINES, FORMS, NETWORKS, SITUATIONS, compare
from tests.ranks import Ranks

BOUND = 1e-12
CELLS = [
    cell for cell in product(ENGINES, FORMS, SITUATIONS) if cell[1] != "fold" or cell[2] == "all tasks"
]  # fold has no counts
BY_SIZE = ("cached", "accumulated cached")
CHANCE = random.Random(21)
SAMPLE = [cell for engine in ENGINES for cell in CHANCE.sample([c for c in CELLS if c[0] == engine], 2)]
# A layer in two modules of fully_shard is torch's own refusal, and parameters that are never used are DDP's.
AWKWARD = [
    (engine, form, situation, network)
    for engine, form, situation, network in product(
        ENGINES, FORMS, ("other tasks absent", "a rank without tasks"), NETWORKS
    )
    if form != "fold" and network != "plain"
    if not (network == "shared layer" and engine in ("fsdp parts", "fsdp nested", "fsdp heads"))
    if not (network == "spare" and "ddp" in engine and "unused" not in engine)
]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    processes = Ranks(2, tmp_path_factory.mktemp("ranks"))
    yield processes
    processes.stop()


def refusal(engine: str, form: str, situation: str, *_: str) -> str | None:
    """What a cell raises on both ranks; None where it is exact."""
    uneven = any(len(set(sizes)) > 1 for sizes in SITUATIONS[situation][0])
    if "fsdp" in engine and engine != "fsdp root" and form in BY_SIZE and uneven:
        return r"ranks \[1\] of the group have another number of passes .* found \(.*Modules of fully_shard run"
    if situation == "absent everywhere in one step" and engine == "ddp static":
        return "absent on all ranks: task 'd', and in the first step no task.*static_graph=True"
    if "absent everywhere" in situation and engine in ("ddp", "ddp view", "ddp no_sync"):
        return r"absent on all ranks: task 'd';.*\(torch: Expected to have finished.*find_unused_parameters=True"
    return None


def faults(ranks: Ranks, cells: list[tuple[str, ...]]) -> list[str]:
    """The cells that are neither exact nor refused in words on both ranks."""
    wrong = []
    for cell in cells:
        message = refusal(*cell)
        for rank, result in enumerate(ranks.run(compare, *cell)):
            right = (
                isinstance(result, tuple) and max(result) <= BOUND
                if message is None
                else isinstance(result, Exception) and re.search(message, str(result))
            )
            if not right:
                wrong.append(f"{cell} on rank {rank}: {result}")
    return wrong


def test_a_sample_of_the_matrix(ranks: Any) -> None:
    assert {form for _, form, _ in SAMPLE} == set(FORMS)
    assert {situation for *_, situation in SAMPLE} == set(SITUATIONS)
    assert not faults(ranks, SAMPLE)


def test_a_sample_of_awkward_networks(ranks: Any) -> None:
    awkward = [network for network in NETWORKS if network != "plain"]
    sample = [cell for network in awkward for cell in CHANCE.sample([c for c in AWKWARD if c[3] == network], 2)]
    assert not faults(ranks, sample)


@pytest.mark.slow
def test_the_matrix(ranks: Any) -> None:
    assert not faults(ranks, CELLS)


@pytest.mark.slow
def test_a_third_of_the_awkward_networks(ranks: Any) -> None:
    assert not faults(ranks, AWKWARD[::3])


@pytest.mark.long
def test_awkward_networks(ranks: Any) -> None:
    assert not faults(ranks, AWKWARD)


def test_a_mean_of_means_is_found(ranks: Any) -> None:
    assert all(gradients > 1e-3 for gradients, _ in ranks.run(calls.without_shares))


def test_a_group_of_one_rank_keeps_its_own_gradient(ranks: Any) -> None:
    assert max(ranks.run(calls.alone)) <= BOUND


def test_as_an_edition_it_is_this_process_alone(ranks: Any) -> None:
    assert max(ranks.run(calls.as_edition)) <= BOUND


def test_the_group_must_have_this_rank(ranks: Any) -> None:
    inside, outside = ranks.run(calls.outside)
    assert inside is None
    assert "this process (rank 1) in it, found NON_GROUP_MEMBER" in str(outside)
    for error in ranks.run(calls.no_group):
        assert "group must be a torch.distributed.ProcessGroup, found str" in str(error)


def test_an_evaluation_needs_no_other_rank(ranks: Any) -> None:
    assert ranks.run(calls.evaluated) == [list("abcd"), []]


def test_one_collective(ranks: Any) -> None:
    assert ranks.run(calls.collectives) == [["all_gather"]] * 2


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("order", r"ranks \[1\] .* other tasks, or another order of them, than its rank 0; found \["),
        ("more tasks", "have other tasks, or another order"),
        ("many more tasks", "have other tasks, or another order"),
        ("edition", "another schedule than its rank 0; found Split"),
    ],
)
def test_ranks_that_differ_raise_together(ranks: Any, what: str, message: str) -> None:
    for error in ranks.run(calls.unlike, what):
        assert isinstance(error, ValueError)
        assert re.search(message, str(error))


def test_a_batch_that_cannot_be_cut(ranks: Any) -> None:
    assert max(ranks.run(calls.opaque)) <= BOUND


def test_coupled_samples_are_refused(ranks: Any) -> None:
    for error in ranks.run(calls.coupled):
        assert "task 'a' declares couples_samples=True: over the batches of several ranks" in str(error)


def test_functions_without_counts_are_named(ranks: Any) -> None:
    first, second = ranks.run(calls.functions)
    assert "task 'b' is a function without a count" in str(first)
    assert "calls a Task whose mean is over 3 terms" in str(first)
    assert second is None


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("averaged", None),
        (
            "not averaged",
            r"'model.trunk.module.0.0.weight' has norm .* on rank 0, norm .* on rank 1, and \d+ more differ",
        ),
        ("missing", "none on rank 1"),
        ("other parameters", "ranks have other parameters"),
    ],
)
def test_gradients_are_compared(ranks: Any, how: str, message: str | None) -> None:
    for result in ranks.run(calls.compare_gradients, how):
        assert result is None if message is None else re.search(message, str(result)), result
