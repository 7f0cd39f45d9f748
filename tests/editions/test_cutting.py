"""What belongs to a sample: tensors, containers of them, lists with an entry a sample; what fits both readings."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_accum import Accumulated, Batched, Cached, Edition, OverBatches, PerSample, Split
from mtl_accum.editions._engine import leaves
from mtl_accum.editions._engine.batch._cutting import cutter, samples_of, take
from mtl_accum.verify._difference import gradient_difference

IN_PIECES = [
    Cached(chunk_size=2),
    Split(head_chunks=2),
    Accumulated(Split(), micro_batches=2),
    Accumulated(Cached(chunk_size=1, head_chunks=2), micro_batches=3),
]


def rows(count: int, *shape: int) -> torch.Tensor:
    return torch.randn(count, *shape)


def boxes(*counts: int) -> list[dict[str, torch.Tensor]]:
    return [{"boxes": rows(count, 4), "labels": torch.zeros(count, dtype=torch.long)} for count in counts]


class Pair(NamedTuple):
    image: torch.Tensor
    label: torch.Tensor


@dataclass
class Views:
    names: list[str]
    maps: list[torch.Tensor]


READ = {  # a batch, its samples, and what samples 1 to 3 of it are made of
    "a tensor": (rows(5, 2), 5, lambda b: [b[1:3]]),
    "input and target": ((rows(5, 2), rows(5, 2)), 5, lambda b: [b[0][1:3], b[1][1:3]]),
    "two samples, input and target": ([rows(2, 3), rows(2, 3)], 2, lambda b: [b[0][1:2], b[1][1:2]]),
    "a record": (Pair(rows(5), rows(5)), 5, lambda b: [b.image[1:3], b.label[1:3]]),
    "feature maps": (
        {"x": rows(5), "maps": [rows(5, 4, 4), rows(5, 2, 2)]},
        5,
        lambda b: [b["x"][1:3], b["maps"][0][1:3], b["maps"][1][1:3]],
    ),
    "two unlike tensors for two samples": (
        {"x": rows(2), "pair": (rows(2, 3), torch.zeros(2, dtype=torch.long))},
        2,
        lambda b: [b["x"][1:2], b["pair"][0][1:2], b["pair"][1][1:2]],
    ),
    "captions": ({"x": rows(4), "text": list("abcd")}, 4, lambda b: [b["x"][1:3], "b", "c"]),
    "weights in a tuple": ({"x": rows(4), "w": (0.1, 0.2, 0.3, 0.4)}, 4, lambda b: [b["x"][1:3], 0.2, 0.3]),
    "a queue": ({"x": rows(3), "n": deque([1, 2, 3])}, 3, lambda b: [b["x"][1:3], 2, 3]),
    "images of one size": (
        {"images": [rows(3, 8, 8)] * 5, "y": rows(5)},
        5,
        lambda b: [*b["images"][1:3], b["y"][1:3]],
    ),
    "detection as torchvision has it": (
        ([rows(3, 8, 8)] * 5, boxes(3, 0, 2, 3, 3)),
        5,
        lambda b: [*b[0][1:3], *leaves(b[1][1:3])],
    ),
    "samples that nobody collated": (
        [{"image": rows(3, n, n), "boxes": SimpleNamespace()} for n in (4, 5, 6, 7)],
        4,
        lambda b: [b[1]["image"], b[1]["boxes"], b[2]["image"], b[2]["boxes"]],
    ),
    "texts alone": (["a", "b", "c"], 3, lambda b: ["b", "c"]),
    "as many boxes as images, declared": (
        {"x": rows(4), "targets": PerSample(boxes(4, 4, 4, 4))},
        4,
        lambda b: [b["x"][1:3], *leaves(list(b["targets"][1:3]))],
    ),
    "as many maps as samples, declared": (
        {"x": rows(3), "maps": Batched([rows(3, 4), rows(3, 2), rows(3, 1)])},
        3,
        lambda b: [b["x"][1:3], *(m[1:3] for m in b["maps"])],
    ),
    "declared maps alone": ({"maps": Batched([rows(5, 3), rows(5, 3)])}, 5, lambda b: [m[1:3] for m in b["maps"]]),
    "a declared list alone": (PerSample([rows(3, 8)] * 4), 4, lambda b: list(b[1:3])),
    "no boxes in any image": (
        {"x": rows(3), "targets": boxes(0, 0, 0)},
        3,
        lambda b: [b["x"][1:3], *leaves(b["targets"][1:3])],
    ),
    "a list with nothing in it": ({"x": rows(3), "extra": []}, 3, lambda b: [b["x"][1:3]]),
    "numbers that all samples share": ({"x": rows(3), "epoch": 7}, 3, lambda b: [b["x"][1:3], 7]),
    "lists in a dataclass": (
        {"x": rows(3), "views": Views(["a", "b", "c"], [rows(3, 2), rows(3, 1)])},
        3,
        lambda b: [b["x"][1:3], "b", "c", b["views"].maps[0][1:3], b["views"].maps[1][1:3]],
    ),
}


@pytest.mark.parametrize("case", READ)
def test_a_batch_is_cut_into_its_samples(case: str) -> None:
    batch, samples, expected = READ[case]
    assert samples_of(batch, "batch") == samples
    part = take(batch, (1, 3))
    assert isinstance(part, type(batch))
    for mine, theirs in zip(leaves(part), expected(batch), strict=True):
        assert torch.equal(mine, theirs) if isinstance(theirs, torch.Tensor) else mine == theirs


REFUSED = {
    "4 images of 4 boxes": ({"x": rows(4), "t": boxes(4, 4, 4, 4)}, r"^batch\['t'\]: .*both. Wrap it in .*PerSample"),
    "4 feature maps of 4 samples": (
        {"x": rows(4), "maps": [rows(4, n) for n in (8, 4, 2, 1)]},
        r"^batch\['maps'\]: .*Batched for the second",
    ),
    "names of classes": (
        {"x": rows(4), "classes": ["cat", "dog"]},
        r"^batch\['classes'\]: .*found a list of 2 strs; .*needs 4 entries, found 2. Hand over what all samples share",
    ),
    "one caption too few": (
        {"x": rows(4), "text": PerSample("abc")},
        r"^batch\['text'\]: .* in dimension 0.*3 entries",
    ),
    "ragged, one too few": ({"x": rows(4), "t": boxes(1, 2, 3)}, r"^batch\['t'\]\[0\]\['boxes'\]: .*needs 4 entries"),
    "images or channels": ({"images": [rows(3, 8, 8)] * 5}, r"^batch: .*as 3 or 5 samples. Wrap those .*PerSample"),
    "two lists that disagree": ({"a": list("abc"), "b": list("ab")}, r"^batch\['b'\]: .*needs 3 entries, found 2"),
    "an input shorter than its target": ((rows(4), rows(3)), r"^batch\[1\]: .* 4 samples .* as batch\[0\] has"),
    "nothing": ({}, "^batch: .*found no tensor"),
    "no sample": ({"x": rows(0)}, "^batch: .*at least one sample, found none"),
}


@pytest.mark.parametrize("edition", IN_PIECES, ids=repr)
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_by_its_path(case: str, edition: Edition) -> None:
    batch, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        edition.forward_backward(lambda b: pytest.fail("ran"), {"t": lambda z, b: pytest.fail("ran")}, batch)


def detector() -> tuple[nn.Module, Callable[..., Any], dict[str, Any], dict[str, Any]]:
    """A trunk and a head on batches with ragged boxes, captions and weights in lists, and the plain loop's gradient."""
    torch.manual_seed(0)
    trunk, head = nn.Linear(6, 5).double(), nn.Linear(5, 4).double()
    counts = (2, 0, 5, 1, 3)
    batch = {
        "x": torch.randn(5, 6, dtype=torch.float64),
        "targets": [{"boxes": torch.rand(count, 4, dtype=torch.float64)} for count in counts],
        "text": ["a", "bcd", "", "ef", "g"],
        "weight": [0.1, 0.5, 2.0, 0.0, 1.5],
    }

    def loss(z: Tensor, batch: dict[str, Any]) -> Tensor:
        rows = zip(head(z), batch["targets"], batch["text"], batch["weight"], strict=True)
        return torch.stack([w * (out.sum() - t["boxes"].sum() - len(s)) ** 2 for out, t, s, w in rows]).mean()

    return nn.ModuleList([trunk, head]), lambda b: trunk(b["x"]), {"det": loss}, batch


@pytest.mark.parametrize("edition", IN_PIECES, ids=repr)
def test_lists_with_an_entry_a_sample_give_the_gradient_of_the_plain_loop(edition: Edition) -> None:
    modules, trunk, tasks, batch = detector()
    tasks["det"](trunk(batch), batch).backward()
    expected = {name: parameter.grad for name, parameter in modules.named_parameters()}
    modules.zero_grad()
    edition.forward_backward(trunk, tasks, batch)
    gradients = {name: parameter.grad for name, parameter in modules.named_parameters()}
    assert gradient_difference(gradients, expected) <= 1e-12
    modules.zero_grad()
    OverBatches(edition).forward_backward(trunk, tasks, [take(batch, (0, 3)), take(batch, (3, 5))])
    gradients = {name: parameter.grad for name, parameter in modules.named_parameters()}
    assert gradient_difference(gradients, expected) <= 1e-12


VIEWS = {
    "flattened tokens": lambda lin, x: lin(x).flatten(0, 1),
    "two views": lambda lin, x: torch.cat([lin(x), lin(-x)]),
    "pairs": lambda lin, x: lin(x[::2] - x[1::2]),
    "one for all": lambda lin, x: lin(x).mean(0, keepdim=True),
    "feature maps, one of them pooled": lambda lin, x: [lin(x), lin(x).mean(0, keepdim=True)],
    "an entry a sample": lambda lin, x: {"z": [lin(row) for row in x]},
    "lengths": lambda lin, x: {"z": lin(x), "lengths": [3] * len(x)},
}


@pytest.mark.parametrize("edition", [Split(head_chunks=2), Cached(chunk_size=4), Cached(100, head_chunks=2)], ids=repr)
@pytest.mark.parametrize("view", VIEWS)
def test_a_representation_with_other_rows_than_samples_is_refused(view: str, edition: Edition) -> None:
    lin, batch = nn.Linear(5, 3), {"x": torch.randn(8, 3, 5)}
    tasks = {"t": lambda z, b: sum(leaf.mean() for leaf in leaves(z) if isinstance(leaf, torch.Tensor))}
    with pytest.raises(ValueError, match=r"^representation.*(Give it the samples in dimension 0|make a list with)"):
        edition.forward_backward(lambda b: VIEWS[view](lin, b["x"]), tasks, batch)
    Split().forward_backward(lambda b: VIEWS[view](lin, b["x"]), tasks, batch)  # in one piece it is nobody's business


def test_feature_maps_stay_one_representation_whatever_the_size_of_a_chunk() -> None:
    """2 maps in chunks of 2 samples: a representation has no lists of samples."""
    lin, x = nn.Linear(5, 3).double(), torch.randn(6, 5, dtype=torch.float64)
    tasks = {"t": lambda z, b: F.mse_loss(z[0], z[1].tanh())}
    trunk = lambda b: [lin(b), lin(b).square()]
    Split().forward_backward(trunk, tasks, x)
    expected, lin.weight.grad = lin.weight.grad, None
    Cached(chunk_size=2, head_chunks=3).forward_backward(trunk, tasks, x)
    torch.testing.assert_close(lin.weight.grad, expected, rtol=1e-12, atol=0)


def test_cutting_makes_views() -> None:
    x = rows(4, 2)
    part = cutter({"x": x, "maps": [x, x[:, :1]]}, "batch", 4)((1, 3))
    assert {leaf.untyped_storage().data_ptr() for leaf in leaves(part)} == {x.untyped_storage().data_ptr()}
