"""Cutting and putting together: any pytree, any sizes, and what cannot be cut by its name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mtl_accum import Accumulated, Cached, Edition, Split, SummedLoss, Task, count_mask
from mtl_accum.editions import samples_of
from mtl_accum.editions._engine import Assembly, Piece, cut_batch, equal_ranges, flatten, ranges, read_counts
from mtl_accum.verify._difference import gradient_difference

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)

leaves = st.one_of(
    st.tuples(st.integers(0, 3), st.integers(0, 3)).map(lambda shape: ("tensor", shape)),
    st.sampled_from([1, 2.5, "text", b"bytes", None, True]),
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
        st.tuples(inner, inner),
    ),
    max_leaves=8,
)


def grow(tree: Any, samples: Any) -> Any:
    """The tree with random tensors of that many samples in place of their shapes."""
    if isinstance(tree, tuple) and tree and tree[0] == "tensor":
        return torch.randn(samples, *tree[1])
    if isinstance(tree, dict):
        return {key: grow(value, samples) for key, value in tree.items()}
    if isinstance(tree, list | tuple):  # with tensors of two kinds in it, so that nobody takes its entries for samples
        return type(tree)([*(grow(value, samples) for value in tree), torch.randn(samples), torch.randn(samples, 2)])
    return tree


def plain(tree: Any) -> Any:
    """The tree with a list for every kind of list: what is cut is told that it is `Batched`."""
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    return [plain(value) for value in tree] if isinstance(tree, list | tuple) else tree


@SETTINGS
@given(trees, st.integers(1, 9), st.integers(1, 12))
def test_what_is_cut_can_be_put_together(tree: Any, samples: Any, size: Any) -> None:
    whole = {"x": torch.randn(samples), "tree": grow(tree, samples)}
    assembly = Assembly(samples)
    pieces = cut_batch(whole, ranges(samples_of(whole, "batch"), size))
    assert len(pieces) == -(-samples // size)
    for piece in pieces:
        assembly.add(piece, piece.batch)
    (found, spec), (expected, expected_spec) = flatten(plain(assembly.whole()), ""), flatten(plain(whole), "")
    assert spec == expected_spec
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine, theirs) if isinstance(theirs, torch.Tensor) else mine is theirs


@given(st.integers(1, 50), st.integers(1, 60))
def test_equal_ranges(samples: Any, pieces: Any) -> None:
    cut = equal_ranges(samples, pieces)
    assert [number for start, stop in cut for number in range(start, stop)] == list(range(samples))
    assert len(cut) <= pieces
    assert len({stop - start for start, stop in cut[:-1]}) <= 1


@SETTINGS
@given(
    samples=st.integers(1, 9),
    masks=st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=1, max_size=4),
    chunk=st.integers(1, 11),
    pieces=st.integers(1, 11),
)
def test_any_counts_and_chunk_sizes(samples: Any, masks: Any, chunk: Any, pieces: Any) -> None:
    torch.manual_seed(0)
    trunk = torch.nn.Linear(3, 4).double()
    x = torch.randn(samples, 3, dtype=torch.float64)
    batch = {"x": x} | {f"m{i}": torch.tensor(mask[:samples], dtype=torch.float64) for i, mask in enumerate(masks)}

    def masked(out: Any, mask: Any) -> Any:
        return (out.square().sum(1) * mask).sum() / mask.sum()

    heads = [torch.nn.Linear(4, 2).double() for _ in masks]
    tasks = {f"t{i}": Task(head, masked, f"m{i}", count=count_mask(f"m{i}")) for i, head in enumerate(heads)}
    modules = torch.nn.ModuleList([trunk, *heads])

    def gradients(edition: Edition) -> tuple[dict[str, Any], Any]:
        modules.zero_grad()
        losses = edition.forward_backward(lambda b: trunk(b["x"]), tasks, batch)
        return {name: parameter.grad for name, parameter in modules.named_parameters()}, losses

    expected, expected_losses = gradients(SummedLoss())
    for edition in (
        Split(head_chunks=pieces),
        Cached(chunk_size=chunk, head_chunks=pieces),
        Accumulated(Cached(chunk_size=chunk), micro_batches=pieces),
    ):
        found, losses = gradients(edition)
        assert gradient_difference(found, expected) <= 1e-12
        assert gradient_difference(losses, expected_losses) <= 1e-12
        assert all(torch.isfinite(gradient).all() for gradient in found.values() if gradient is not None)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            {"x": torch.ones(4, 2), "y": torch.ones(3)},
            r"batch\['y'\]: .* 4 samples .* as batch\['x'\] has; found shape \(3,\)",
        ),
        ({"x": torch.ones(4, 2), "t": [torch.tensor(1.0)]}, r"batch\['t'\]\[0\]: .*found shape \(\)"),
        ({"x": 3}, "batch: to be cut, expected a tensor with the samples in dimension 0, found no tensor"),
        (torch.tensor(1.0), "batch: to be cut, expected the samples in dimension 0; found shape"),
    ],
)
@pytest.mark.parametrize("edition", [Split(head_chunks=2), Cached(chunk_size=2), Accumulated(Split(), 2)], ids=repr)
def test_what_cannot_be_cut_is_named(edition: Edition, batch: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        edition.forward_backward(lambda b: b["x"], {"t": lambda z, b: z.mean()}, batch)


@pytest.mark.parametrize("edition", [Split(head_chunks=2), Cached(chunk_size=2)], ids=repr)
def test_a_representation_without_samples_is_named(edition: Edition) -> None:
    weight = torch.ones(3, requires_grad=True)
    trunk = lambda b: {"z": b["x"] * weight.sum(), "shared": weight * 1}
    with pytest.raises(ValueError, match=r"representation\['shared'\]: to be cut, expected [24] samples"):
        edition.forward_backward(trunk, {"t": lambda z, b: z["z"].mean()}, {"x": torch.ones(4)})


def test_a_number_that_differs_between_pieces_is_refused() -> None:
    assembly = Assembly(2)
    assembly.add(Piece((0, 1), None), (torch.ones(1), 1.0))
    with pytest.raises(ValueError, match=r"representation: 1.0 in one piece and 2.0 in another; make it a tensor"):
        assembly.add(Piece((1, 2), None), (torch.ones(1), 2.0))


def test_channels_last_stays() -> None:
    assembly = Assembly(4)
    image = torch.randn(2, 3, 5, 5).to(memory_format=torch.channels_last)
    assembly.add(Piece((0, 2), None), image)
    assert assembly.whole().is_contiguous(memory_format=torch.channels_last)


def test_counts_of_nested_editions_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: reads.append(len(self)) or tolist(self))
    x = torch.ones(8, 3)
    task = Task(torch.nn.Linear(3, 1), lambda out, m: (out[:, 0] * m).sum() / m.sum(), "m", count=count_mask("m"))
    edition = Accumulated(Accumulated(Split(head_chunks=2), micro_batches=2), micro_batches=2)
    edition.forward_backward(lambda b: b["x"], {"t": task}, {"x": x, "m": torch.ones(8)})
    assert len(reads) == 1


COUNTS = {  # of the whole batch of 8, and of its pieces of 4; whether they add up
    "the same for every piece": (lambda b: 8, False),
    "the same tensor for every piece": (lambda b: torch.tensor(8.0), False),
    "the square of the samples": (lambda b: len(b["x"]) ** 2, False),
    "a root": (lambda b: len(b["x"]) ** 0.5, False),
    "the samples of a batch kept elsewhere": (lambda b, seen=[]: seen.append(len(b["x"])) or seen[0], False),  # type: ignore[misc]
    "rounded up": (lambda b: 8.1 if len(b["x"]) == 8 else 4, False),
    "the samples": (lambda b: len(b["x"]), True),
    "within rounding": (lambda b: len(b["x"]) * (1 + 4e-7 * (len(b["x"]) == 8)), True),
    "a mask": (lambda b: b["m"].sum(), True),
    "a clamped mask": (lambda b: b["m"].sum().clamp(min=1), True),
    "a mask clamped in Python": (lambda b: max(1, int(b["m"].sum())), True),
}


@pytest.mark.parametrize(
    "edition", [Split(head_chunks=2), Cached(100, head_chunks=2), Accumulated(Split(), 2)], ids=repr
)
@pytest.mark.parametrize("case", COUNTS)
def test_counts_of_the_pieces_add_up(case: str, edition: Edition) -> None:
    count, right = COUNTS[case]
    lin = torch.nn.Linear(3, 1).double()
    batch = {"x": torch.randn(8, 3, dtype=torch.float64), "m": torch.tensor([1.0, 0, 1, 1, 0, 0, 0, 0])}

    def loss(out: Any, m: Any) -> Any:
        return (out[:, 0].square() * m).sum() / m.sum().clamp(min=1) if "mask" in case else out.square().mean()

    tasks = {"t": Task(torch.nn.Identity(), loss, "m", count=count)}
    trunk = lambda b: lin(b["x"])
    if not right:
        with pytest.raises(ValueError, match="task 't': the counts of the pieces must add up to that of the batch, "):
            edition.forward_backward(trunk, tasks, batch)
        return
    SummedLoss().forward_backward(trunk, tasks, batch)
    expected, lin.weight.grad = lin.weight.grad, None
    edition.forward_backward(trunk, tasks, batch)
    torch.testing.assert_close(lin.weight.grad, expected, rtol=1e-6 if case == "within rounding" else 1e-12, atol=0)


def test_a_target_that_ignores_the_piece_is_an_error_too() -> None:
    task = Task(torch.nn.Linear(3, 1), lambda out, y: out.mean(), lambda b: torch.zeros(8))
    with pytest.raises(ValueError, match="must add up to that of the batch, 8; found 8 [+] 8 = 16"):
        Split(head_chunks=2).forward_backward(lambda b: b["x"], {"t": task}, {"x": torch.ones(8, 3)})


def test_counts_are_exact_integers() -> None:
    class Tokens:
        def count(self, batch: Any) -> Tensor:
            return torch.tensor(2**24 + 1)

    assert read_counts({"t": Tokens()}, [Piece(None, None)]) == {"t": {None: 2**24 + 1}}
