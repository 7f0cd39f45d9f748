"""What cannot be cut or taken apart: named by its path, with what to hand over instead."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pack_sequence

from mtl_accum import Accumulated, Checkpointed, Edition, Offloaded, OverBatches, PerTask, Split, SummedLoss
from mtl_accum.testing import SAMPLES, Workload, assert_same_gradient, vector
from tests.editions.editions import IN_PIECES, in_pieces


def empty(load: Workload) -> dict[str, torch.Tensor]:
    return {name: value[:0] for name, value in load.batch.items()}


@in_pieces
def test_empty_batch(edition: Edition) -> None:
    load = vector()
    with pytest.raises(ValueError, match="batch: to be cut, expected at least one sample, found none"):
        edition.forward_backward(load.trunk, load.tasks, empty(load))


def test_empty_batch_in_a_window_weighs_nothing() -> None:
    load = vector()

    class WithEmpty:
        def forward_backward(self, trunk: Any, tasks: Any, batch: Any) -> Any:
            return OverBatches(Split()).forward_backward(trunk, tasks, [empty(load), batch, empty(load)])

    assert_same_gradient(WithEmpty(), vector)


def of_package(module: str, name: str) -> object:
    """An object of a package that need not be installed."""
    return type(name, (), {"__module__": module})()


# What nobody registered, by the fix that is named; in a batch that is cut, and in a representation.
FOREIGN = {
    "numpy": (lambda: np.zeros((SAMPLES, 2)), "torch.as_tensor"),
    "graph": (lambda: of_package("torch_geometric.data.batch", "DataBatch"), "nodes and edges"),
    "graph's subclass": (
        lambda: type("Mine", (type(of_package("torch_geometric.data", "Data")),), {})(),
        "Mine; its nodes and edges",
    ),
    "another graph": (lambda: of_package("dgl.heterograph", "DGLGraph"), "nodes and edges"),
    "SparseTensor": (lambda: of_package("torch_sparse.tensor", "SparseTensor"), "rows cannot be cut"),
    "picture": (lambda: of_package("PIL.Image", "Image"), "make it a tensor in the data set"),
    "data frame": (lambda: of_package("pandas", "DataFrame"), r"torch\.as_tensor\(frame\.to_numpy\(\)\)"),
    "numpy's boolean": (lambda: np.bool_(True), "torch.as_tensor"),
    "set": (lambda: {1, 2}, r"builtins\.set; hand over a dict or tuple"),
    "real cache": (lambda: pytest.importorskip("transformers").DynamicCache(), "DynamicCache; pass use_cache=False"),
    "cache": (lambda: of_package("transformers.cache_utils", "DynamicCache"), "use_cache=False"),
    "object": (lambda: SimpleNamespace(x=1), "register_pytree_node"),
}


@in_pieces
@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_container_in_a_batch(edition: Edition, kind: str) -> None:
    make, fix = FOREIGN[kind]
    load = vector()
    load.batch["more"] = make()
    with pytest.raises(TypeError, match=rf"batch\['more'\]: expected a tensor.*{fix}") as raised:
        edition.forward_backward(load.trunk, load.tasks, load.batch)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("edition", [Split(), *IN_PIECES], ids=repr)
@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_container_in_a_representation(edition: Any, kind: str) -> None:
    make, fix = FOREIGN[kind]
    load = vector()
    if isinstance(edition, Accumulated):
        edition = Accumulated(Split(), 2)
    with pytest.raises(TypeError, match=rf"representation\['more'\]: expected a tensor.*{fix}"):
        edition.forward_backward(lambda b: {"z": load.trunk(b), "more": make()}, load.tasks, load.batch)


@pytest.mark.parametrize("edition", [SummedLoss(), Split(), PerTask()], ids=repr)
@pytest.mark.parametrize("kind", FOREIGN)
def test_whole_batch_may_hold_anything(edition: Edition, kind: str) -> None:
    load = vector()
    load.batch["more"] = FOREIGN[kind][0]()
    assert edition.forward_backward(load.trunk, load.tasks, load.batch)


# Tensors whose samples are no slices of dimension 0.
UNCUTTABLE = {
    "sparse": (lambda: torch.eye(SAMPLES).to_sparse(), "to_dense"),
    "sparse rows": (lambda: torch.eye(SAMPLES).to_sparse_csr(), "to_dense"),
    "jagged": (
        lambda: torch.nested.nested_tensor([torch.ones(1 + i, 2) for i in range(SAMPLES)], layout=torch.jagged),
        "Pad it",
    ),
    "packed": (lambda: pack_sequence([torch.ones(9 - i, 2) for i in range(SAMPLES)]), "PackedSequence.*pad"),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@in_pieces
@pytest.mark.parametrize("kind", UNCUTTABLE)
def test_uncuttable_tensor(edition: Edition, kind: str) -> None:
    make, fix = UNCUTTABLE[kind]
    load = vector()
    load.batch["more"] = make()
    with pytest.raises(ValueError, match=rf"batch\['more'\]: to be cut, expected.*{fix}") as raised:
        edition.forward_backward(load.trunk, load.tasks, load.batch)
    assert "\n" not in str(raised.value)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("kind", UNCUTTABLE)
def test_uncuttable_tensor_as_representation(kind: str) -> None:
    make, fix = UNCUTTABLE[kind]
    load = vector()
    trunk = lambda b: {"z": load.trunk(b), "more": make()}
    tasks = {"t": lambda z, b: F.mse_loss(z["z"][:, :2], b["y0"])}
    with pytest.raises(ValueError, match=rf"representation\['more'\]: to be cut, expected.*{fix}"):
        Split(head_chunks=2).forward_backward(trunk, tasks, load.batch)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("edition", [Split(), PerTask(), Offloaded(Split()), Checkpointed(Split())], ids=repr)
@pytest.mark.parametrize("kind", UNCUTTABLE)
def test_whole_batch_may_hold_uncuttable_tensors(edition: Edition, kind: str) -> None:
    load = vector()
    load.batch["more"] = UNCUTTABLE[kind][0]()
    assert all(loss > 0 for loss in edition.forward_backward(load.trunk, load.tasks, load.batch).values())
