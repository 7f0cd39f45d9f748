"""Slips of the hand: what an edition is called with is looked at first, and one sentence says what to do."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from mtl_accum import (
    Accumulated,
    Cached,
    Checkpointed,
    MultiTaskModel,
    Offloaded,
    OverBatches,
    PerTask,
    Split,
    SummedLoss,
    Task,
    check,
    compare,
    plan,
    predict,
)

SAMPLES = 8
WHOLE = [SummedLoss(), PerTask(), Split(), Checkpointed(Split()), Offloaded(Split()), OverBatches(Split())]
IN_PIECES = [Split(head_chunks=2), Cached(3), Accumulated(Split(), 2), Checkpointed(Cached(3)), Offloaded(Cached(3))]
every_edition = pytest.mark.parametrize("edition", WHOLE + IN_PIECES, ids=repr)
in_pieces = pytest.mark.parametrize("edition", IN_PIECES, ids=repr)


def model(target="y") -> MultiTaskModel:
    tasks = {name: Task(nn.Linear(4, 1), nn.MSELoss(), target) for name in ("a", "b")}
    return MultiTaskModel(nn.Linear(3, 4), tasks, inputs="x")


def batch(samples=SAMPLES, **more):
    return {"x": torch.randn(samples, 3), "y": torch.randn(samples, 1), **more}


def run(edition, trunk, tasks, data):
    return edition.forward_backward(trunk, tasks, [data, data] if isinstance(edition, OverBatches) else data)


SLIPS = {
    "tasks as a list": (
        lambda m: (m.trunk, list(m.tasks.values())),
        TypeError,
        r"tasks must be a mapping from names to tasks, found list; give each one a name: {\"depth\": task, ...}",
    ),
    "the model in place of its tasks": (
        lambda m: (m.trunk, m),
        TypeError,
        r"tasks must be a mapping .* found MultiTaskModel; pass model\.tasks",
    ),
    "one task in place of a mapping": (
        lambda m: (m.trunk, m.tasks["a"]),
        TypeError,
        "tasks must be a mapping .* found Task; e.g.",
    ),
    "no tasks": (lambda m: (m.trunk, {}), ValueError, "tasks must hold at least one task, found none; e.g."),
    "the model in place of its trunk": (
        lambda m: (m, m.tasks),
        TypeError,
        r"trunk must map the batch .* found a whole MultiTaskModel .*; pass model\.trunk and model\.tasks",
    ),
    "a trunk that cannot be called": (
        lambda m: (None, m.tasks),
        TypeError,
        "trunk must be a callable batch -> representation, found None",
    ),
    "a trunk's class": (
        lambda m: (nn.Linear, m.tasks),
        TypeError,
        "trunk must be .* found the class Linear; make an instance",
    ),
    "a task that cannot be called": (
        lambda m: (m.trunk, {"a": m.tasks["a"], "b": torch.zeros(())}),
        TypeError,
        r"task 'b' must be a callable \(representation, batch\) -> loss, found Tensor",
    ),
    "a loss's class as a task": (
        lambda m: (m.trunk, {"b": nn.MSELoss}),
        TypeError,
        "task 'b' must be .* found the class MSELoss; make an instance",
    ),
}


@every_edition
@pytest.mark.parametrize("slip", SLIPS)
def test_slips_are_one_sentence(edition, slip):
    parts, kind, message = SLIPS[slip]
    with pytest.raises(kind, match=message) as caught:
        run(edition, *parts(model()), batch())
    assert "\n" not in str(caught.value)


@every_edition
def test_a_module_dict_is_a_mapping(edition):
    net = model()
    assert set(run(edition, net.trunk, nn.ModuleDict(dict(net.tasks.items())), batch())) == {"a", "b"}


@pytest.mark.parametrize("entry", [check, predict, compare, plan], ids=lambda entry: entry.__name__)
@pytest.mark.parametrize("slip", SLIPS)
def test_slips_are_seen_by_what_measures_editions_too(entry, slip):
    parts, kind, message = SLIPS[slip]
    more = {"edition": Split(), "device": "cpu"} if entry is predict else {}
    with pytest.raises(kind, match=message):
        entry(*parts(model()), batch(), **more)


CLASSES = {
    "Accumulated": lambda m: Accumulated(Split, 2),
    "Checkpointed": lambda m: Checkpointed(Split),
    "Offloaded": lambda m: Offloaded(Split),
    "OverBatches": lambda m: OverBatches(Split),
    "predict": lambda m: predict(m.trunk, m.tasks, batch(), edition=Split, device="cpu"),
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_in_place_of_an_edition(name):
    with pytest.raises(
        TypeError, match=r"edition must be an instance, found the class Split; call it: Split\(\.\.\.\)"
    ):
        CLASSES[name](model())


@pytest.mark.parametrize("entry", [check, compare], ids=lambda entry: entry.__name__)
def test_editions_are_a_mapping_of_instances(entry):
    net = model()
    with pytest.raises(TypeError, match=r"editions\['a'\] must be an instance, found the class Split"):
        entry(net.trunk, net.tasks, batch(), editions={"a": Split})
    with pytest.raises(TypeError, match="editions must be a mapping from names to editions, found list"):
        entry(net.trunk, net.tasks, batch(), editions=[Split()])
    with pytest.raises(TypeError, match=r"editions\['a'\] must have forward_backward, found 'split'"):
        entry(net.trunk, net.tasks, batch(), editions={"a": "split"})


@in_pieces
def test_an_empty_batch_is_refused_where_it_is_cut(edition):
    weight = torch.ones(3, 4, requires_grad=True)
    with pytest.raises(ValueError, match="batch: to be cut, expected at least one sample, found none; leave empty"):
        run(edition, lambda b: b["x"] @ weight, {"a": lambda z, b: z.mean()}, {"x": torch.empty(0, 3)})


@every_edition
def test_a_batch_without_any_target_is_said_once(edition):
    net, data = model("depht"), {"x": torch.randn(SAMPLES, 3), "depth": torch.randn(SAMPLES, 1)}
    message = r"no task is present in this batch.*'a' \(no 'depht'\), 'b' .*has the keys 'x', 'depth'\."
    with pytest.warns(UserWarning, match=message) as caught:
        losses = run(edition, net.trunk, net.tasks, data)
    assert caught[0].filename == __file__
    assert losses == {"a": torch.zeros(()), "b": torch.zeros(())}
    run(edition, net.trunk, dict(net.tasks.items()), data)  # warnings are errors


@every_edition
def test_one_task_that_is_present_needs_no_word(edition):
    net, other = model(), model("nowhere")
    run(edition, net.trunk, {"here": net.tasks["a"], "away": other.tasks["a"]}, batch())


@every_edition
def test_counts_of_0_need_no_word(edition):
    task = Task(nn.Linear(4, 1), nn.MSELoss(), "y", count=lambda b: 0)
    assert run(edition, model().trunk, {"a": task}, batch()) == {"a": torch.zeros(())}


def of_package(package: str, name: str) -> object:
    """An object of a class that a package, which need not be installed, would have made."""
    return type(name, (), {"__module__": f"{package}.data"})()


def cache():
    return pytest.importorskip("transformers").DynamicCache()


CONTAINERS = {
    "numpy array": (lambda: np.ones((SAMPLES, 2)), r"numpy\.ndarray; make it a tensor: torch\.as_tensor"),
    "numpy boolean": (lambda: np.bool_(True), r"numpy\.bool.*; make it a tensor"),
    "PyG batch": (
        lambda: of_package("torch_geometric", "Batch"),
        r"torch_geometric\.data\.Batch; .*Split\(\) and PerTask\(\) take it whole.*dict of tensors",
    ),
    "a class of a PyG batch": (
        lambda: type("Mine", (type(of_package("torch_geometric", "Data")),), {})(),
        r"Mine; its nodes and edges do not lie along one dimension",
    ),
    "DGL graph": (lambda: of_package("dgl", "DGLGraph"), r"DGLGraph; its nodes and edges"),
    "SparseTensor": (lambda: of_package("torch_sparse", "SparseTensor"), r"SparseTensor; its rows cannot be cut"),
    "picture": (lambda: of_package("PIL", "Image"), r"PIL\.data\.Image; make it a tensor in the data set"),
    "data frame": (lambda: of_package("pandas", "DataFrame"), r"DataFrame; .*torch\.as_tensor\(frame\.to_numpy\(\)\)"),
    "cache": (cache, r"DynamicCache; pass use_cache=False to the model"),
    "set": (lambda: {1, 2}, r"builtins\.set; hand over a dict or tuple of its tensors, or register it"),
}


@in_pieces
@pytest.mark.parametrize("name", CONTAINERS)
def test_unknown_containers_in_a_batch(edition, name):
    make, message = CONTAINERS[name]
    net = model()
    with pytest.raises(TypeError, match=r"batch\['more'\]: expected a tensor, .*; found .*" + message) as caught:
        run(edition, net.trunk, net.tasks, batch(more=make()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("edition", [Split(), *IN_PIECES], ids=repr)
@pytest.mark.parametrize("name", CONTAINERS)
def test_unknown_containers_in_a_representation(edition, name):
    make, message = CONTAINERS[name]
    net = model()
    trunk = lambda b: (net.trunk(b), make())
    with pytest.raises(TypeError, match=r"representation\[1\]: expected a tensor, .*; found .*" + message):
        run(edition, trunk, {"a": lambda z, b: z[0].mean()}, batch())


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_whole_batch_may_hold_anything(name):
    net = model()
    for edition in (SummedLoss(), PerTask(), Split()):
        run(edition, net.trunk, net.tasks, batch(more=CONTAINERS[name][0]()))


def quietly(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: sparse CSR and nested tensors are in beta
        return make()


RAGGED = [torch.ones(2, 3)] * SAMPLES
UNCUTTABLE = {
    "sparse": (lambda: torch.eye(SAMPLES).to_sparse(), r"layout sparse_coo; .*Split\(\) on the whole batch.*to_dense"),
    "sparse rows": (lambda: torch.eye(SAMPLES).to_sparse_csr(), "layout sparse_csr"),
    "jagged": (
        lambda: torch.nested.nested_tensor(RAGGED, layout=torch.jagged),
        r"a nested one \(layout jagged\); pad it: torch\.nested\.to_padded_tensor",
    ),
    "packed": (lambda: pack_sequence(RAGGED), r"found a PackedSequence; hand over padded tensors and lengths"),
}


@in_pieces
@pytest.mark.parametrize("name", UNCUTTABLE)
def test_what_has_no_rows_to_cut(edition, name):
    make, message = UNCUTTABLE[name]
    net = model()
    with pytest.raises(ValueError, match=r"batch\['more'\]: to be cut, expected .*" + message):
        run(edition, net.trunk, net.tasks, batch(more=quietly(make)))
    if not isinstance(edition, Accumulated):
        value = quietly(make)
        with pytest.raises(ValueError, match=r"representation\[1\]: to be cut, expected .*" + message):
            run(edition, lambda b: (net.trunk(b), value), {"a": lambda z, b: z[0].mean()}, batch())
