"""Generated data: realistic shapes and types, the same samples for the same seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mtl_accum.data import Generated, Scenes, Sentences, Texts

RECIPES = {
    "scenes": Scenes(1 / 16, size=(561, 723)),
    "sentences": Sentences(1 / 16, length=413),
    "texts": Texts(1 / 32, length=1113),
}


def first(recipe: Callable[..., Any], part: str = "train", **changes: Any) -> dict[str, Tensor]:
    return next(
        iter(getattr(Generated(recipe, **{"batch_size": 3, "samples": 7, "test_samples": 2, **changes}), part)())
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "scenes",
            {
                "image": ((3, 3, 35, 45), torch.float32),
                "segmentation": ((3, 35, 45), torch.int64),
                "depth": ((3, 1, 35, 45), torch.float32),
                "normals": ((3, 3, 35, 45), torch.float32),
            },
        ),
        (
            "sentences",
            {
                **dict.fromkeys(("tokens", "pos", "ner", "chunks", "general", "medical"), ((3, 26), torch.int64)),
                "sentiment": ((3,), torch.int64),
                "entailment": ((3,), torch.int64),
                "similarity": ((3, 1), torch.float32),
            },
        ),
        ("texts", {"tokens": ((3, 35), torch.int64)}),
    ],
)
def test_shapes_and_types(name: str, expected: dict[str, Any]) -> None:
    batch = first(RECIPES[name])
    assert {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in batch.items()} == expected


@pytest.mark.parametrize("name", RECIPES)
def test_deterministic_by_seed_part_and_number(name: str) -> None:
    def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
        return all(torch.allclose(one[key], other[key], equal_nan=True) for key in one)

    recipe = RECIPES[name]
    assert same(first(recipe), first(recipe))
    assert not same(first(recipe), first(recipe, seed=1))
    drawn = {part: first(recipe, part, batch_size=2, validation_samples=2) for part in ("validation", "test")}
    assert not same(drawn["validation"], drawn["test"])
    epochs = Generated(recipe, 7, 7).train()
    one, other = (torch.stack([tokens.double().sum() for tokens in next(iter(epochs)).values()][:1]) for _ in range(2))
    torch.testing.assert_close(one, other)  # the same samples, in another order


def test_values_of_scenes() -> None:
    batch = first(RECIPES["scenes"])
    assert batch["segmentation"].min() == -1
    assert batch["segmentation"].max() < 13
    seen = batch["depth"] > 0
    assert 0.3 < seen.float().mean() < 1
    assert batch["depth"][seen].min() >= 0.7
    assert batch["depth"].max() <= 10
    torch.testing.assert_close(batch["normals"].norm(dim=1, keepdim=True), seen.float())
    assert batch["image"].abs().max() < 1.2


def test_values_of_sentences() -> None:
    batch = first(RECIPES["sentences"], samples=40, batch_size=40)
    words = (batch["tokens"] > 3) | (batch["tokens"] == 3)
    assert (batch["tokens"][:, 0] == 1).all()
    for name, classes in {"pos": 17, "ner": 9, "chunks": 23}.items():
        labelled = batch[name] != -100
        assert batch[name].max() < classes
        assert not (labelled & ~words).any()
        assert 0 < labelled.sum() < words.sum()
    masked = batch["tokens"] == 3
    labels = torch.where(batch["general"] != -100, batch["general"], batch["medical"])
    assert torch.equal(masked, labels != -100)
    assert not ((batch["general"] != -100).any(1) & (batch["medical"] != -100).any(1)).any()
    known = batch["similarity"][~batch["similarity"].isnan()]
    assert 0 < len(known) < 40
    assert known.min() >= 0
    assert known.max() <= 5
    assert set(batch["sentiment"].tolist()) == {0, 1}
    assert set(batch["entailment"].tolist()) <= {0, 1, 2}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Generated(Texts(), batch_size=0), "batch_size must be a positive integer, found 0"),
        (lambda: Generated(Texts(), 8, 7), "samples must be at least batch_size, .* found 7 and 8"),
        (lambda: Texts(0), "scale must be a number above 0, found 0"),
        (lambda: Sentences(1e-3), "scale must leave at least 5 tokens .* found 31 and 1 at scale 0.001"),
        (lambda: Scenes(size=(0, 3)), "a size at scale 1 must be a positive integer, found 0"),
    ],
)
def test_refuses(make: Callable[..., Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
