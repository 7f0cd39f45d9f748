"""Networks in the shapes of the literature: exact under every edition, and of the right size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map_only

from mtl_accum import Accumulated, Cached, Checkpointed, Edition, PerTask, Split, SummedLoss, Task, predict
from mtl_accum.models import LanguageTask, MaskedLoss, count_valid, dense3, is_present, lm_heads, squared_error
from mtl_accum.testing import SHAPES, Workload, assert_same_gradient, run_edition
from mtl_accum.verify._difference import gradient_difference
from mtl_accum.verify._oracle import oracle

SMALL = {
    "dense3": (1 / 16, 5, "model.size=[561,723]", "model.blocks=[1,1,2,1]", "model.norm=group"),
    "text8": (1 / 32, 5, "model.heads=64", "model.vocabulary=1500", "model.length=413", "model.layers=64"),
    "lm_heads": (1 / 32, 5, "model.heads=32", "model.vocabulary=1900", "model.length=413", "model.layers=64"),
}
WHOLE = [PerTask(), Split(), Split(order="reverse"), Checkpointed(Split())]
IN_PIECES = [Split(head_chunks=2), Cached(chunk_size=2, head_chunks=2), Accumulated(Split(), micro_batches=2)]


def workload(name: str, *overrides: str) -> Workload:
    scale, samples, *more = SMALL[name]
    model, batch = SHAPES[name](scale, samples, *more, *overrides)
    batch = tree_map_only(torch.Tensor, lambda t: t.double() if t.is_floating_point() else t, batch)
    return Workload(model.trunk, model.tasks, batch, model.double())


@pytest.mark.parametrize("edition", [*WHOLE, *IN_PIECES], ids=repr)
@pytest.mark.parametrize("name", SHAPES)
def test_every_edition_is_exact(name: str, edition: Edition) -> None:
    assert_same_gradient(edition, lambda: workload(name), oracle=oracle(edition))


@pytest.mark.parametrize("edition", WHOLE, ids=repr)
def test_batch_norm_in_the_whole_batch(edition: Edition) -> None:
    assert_same_gradient(edition, lambda: workload("dense3", "model.norm=batch"), oracle=oracle(edition))


@pytest.mark.parametrize("edition", IN_PIECES, ids=repr)
def test_batch_norm_in_pieces_is_refused_and_frozen_is_not(edition: Edition) -> None:
    load = workload("dense3", "model.norm=batch")
    with pytest.raises(ValueError, match="BatchNorm2d.* uses batch statistics"):
        edition.forward_backward(load.trunk, load.tasks, load.batch)
    assert_same_gradient(edition, lambda: workload("dense3", "model.norm=frozen"), oracle=oracle(edition))


@pytest.mark.parametrize("edition", [Split(), Cached(chunk_size=2), Accumulated(Split(), micro_batches=2)], ids=repr)
def test_chunks_of_the_sequence(edition: Edition) -> None:
    """Chunks give the gradient of all logits at once, under every edition."""
    assert_same_gradient(edition, lambda: workload("lm_heads", "model.chunks=3"), oracle=oracle(edition))
    whole, cut = (run_edition(SummedLoss(), workload("lm_heads", f"model.chunks={chunks}")) for chunks in (1, 3))
    assert gradient_difference(cut.gradients, whole.gradients) <= 1e-12
    assert gradient_difference(cut.losses, whole.losses) <= 1e-12


def test_watchers_of_chunks_see_every_token_once() -> None:
    load = workload("lm_heads", "model.chunks=3")
    seen = []
    load.tasks["ahead 2"].watchers.append(lambda output, target: seen.append((output.detach(), target)))
    run_edition(Split(), load)
    load.modules.eval()
    assert torch.equal(torch.cat([target for _, target in seen], 1), load.tasks["ahead 2"].target(load.batch))
    assert [output.shape[:2] for output, _ in seen] == [target.shape for _, target in seen]


def test_chunks_must_be_a_number() -> None:
    with pytest.raises(ValueError, match="chunks must be a positive integer, found 0"):
        lm_heads(1 / 32, chunks=0)


def test_counts_are_the_valid_entries() -> None:
    load = workload("dense3")
    counts = {name: int(task.count(load.batch)) for name, task in load.tasks.items()}
    assert counts["segmentation"] == (load.batch["segmentation"] >= 0).sum() < load.batch["segmentation"].numel()
    assert counts["depth"] == counts["normals"] == (load.batch["depth"] > 0).sum() < load.batch["depth"].numel()
    load = workload("text8")
    for name, task in load.tasks.items():
        target = load.batch[name]
        valid = ~target.isnan() if name == "similarity" else target != -100
        assert int(task.count(load.batch)) == valid.sum(), name
    load = workload("lm_heads")
    samples, length = load.batch["tokens"].shape
    assert [int(task.count(load.batch)) for task in load.tasks.values()] == [
        samples * (length - k) for k in range(1, 5)
    ]
    assert torch.equal(load.tasks["ahead 3"].target(load.batch)[:, :-3], load.batch["tokens"][:, 3:])


def test_a_missing_value_reaches_no_gradient() -> None:
    head = torch.nn.Linear(2, 1)
    task = Task(head, MaskedLoss(squared_error, is_present), "y", count=count_valid("y", is_present))
    batch = {"y": torch.tensor([[1.0], [float("nan")], [3.0]])}
    z = torch.randn(3, 2)
    loss = task(z, batch)
    torch.testing.assert_close(loss, ((head(z) - batch["y"])[[0, 2]] ** 2).mean())
    loss.backward()
    assert head.weight.grad.isfinite().all()
    assert task.count(batch) == 2


@pytest.mark.slow  # builds hundreds of millions of parameters without data
@pytest.mark.parametrize(
    ("name", "samples", "millions", "shapes"),
    [
        ("dense3", 8, (70, 75), {"segmentation": (13, 288, 384), "depth": (1, 288, 384), "normals": (3, 288, 384)}),
        ("text8", 32, (155, 165), {"pos": (512, 17), "similarity": (1,), "general": (512, 30522)}),
        ("lm_heads", 8, (410, 430), {f"ahead {k}": (2048, 32000) for k in range(1, 5)}),
    ],
)
def test_full_size_without_memory(name: str, samples: int, millions: tuple[int, int], shapes: dict[str, Any]) -> None:
    with torch.device("meta"):
        model, batch = SHAPES[name](1.0, 1)
    batch = {key: value.to("meta").repeat_interleave(samples, 0) for key, value in batch.items()}
    low, high = millions
    assert low < sum(parameter.numel() for parameter in model.parameters()) / 1e6 < high
    with torch.no_grad():
        outputs = model(batch)
    for task, shape in shapes.items():
        assert outputs[task].shape == (samples, *shape)
    peaks = [
        predict(model.trunk, model.tasks, batch, edition=edition, device="cuda").peak_bytes
        for edition in (SummedLoss(), Split())
    ]
    assert peaks[1] < peaks[0]


def test_the_trunk_of_dense3_is_a_resnet_50() -> None:
    with torch.device("meta"):
        trunk = dense3().trunk
        parameters = sum(parameter.numel() for parameter in trunk.parameters())
        assert trunk({"image": torch.empty(1, 3, 288, 384)}).shape == (1, 2048, 36, 48)
    assert parameters == 23_508_032  # ResNet-50 without its classifier


def test_the_loss_falls() -> None:
    """Targets follow from the inputs."""
    torch.manual_seed(0)
    for name in SHAPES:
        load = workload(name)
        optimizer = torch.optim.AdamW(load.modules.parameters(), 3e-3)
        losses = []
        for _ in range(12):
            optimizer.zero_grad()
            losses_by_task = Split().forward_backward(load.trunk, load.tasks, load.batch)
            losses.append(float(sum(losses_by_task.values())))
            optimizer.step()
        assert losses[-1] < 0.9 * losses[0], (name, losses)


def test_names_are_tasks_of_the_language_model() -> None:
    assert all(isinstance(task, LanguageTask) for task in lm_heads(1 / 32, ahead=3).tasks.values())
