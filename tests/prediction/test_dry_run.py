"""What users do around a prediction, and what must not happen to them."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mtl_accum import MultiTaskModel, Split, SummedLoss, Task, count_labels, predict
from mtl_accum.memory import TrainingStep
from mtl_accum.prediction import DryRun, PredictionError
from mtl_accum.testing import many_heads, transformer


class Applied(nn.Module):
    """A function of (z, batch) as a task."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, z: Any, batch: Any) -> Any:
        return self.function(z, batch)


def one_task(function: Any, **arguments: Any) -> Any:
    trunk = nn.Linear(4, 4)
    return predict(trunk, {"a": Applied(function)}, torch.randn(6, 4), edition=Split(), **arguments)


def test_a_real_parameter_is_refused_whoever_holds_it() -> None:
    weight = nn.Parameter(torch.randn(4))
    with pytest.raises(TypeError, match=r"a parameter of shape \(4,\) belongs to no module"):
        one_task(lambda z, batch: (z * weight).sum(), device="cpu")
    assert weight.grad is None


def test_build_must_make_the_network_itself() -> None:
    model, batch = many_heads()
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(TypeError, match="build must make the network itself, found parameters from outside"):
        predict(None, {}, None, edition=Split(), build=lambda: (model.trunk, model.tasks, batch, optimizer))
    assert optimizer.param_groups[0]["foreach"] is None
    assert not optimizer.state
    with pytest.raises(TypeError, match=r"build must return \(trunk, tasks, batch, optimizer or None\), found tuple"):
        predict(None, {}, None, edition=Split(), build=lambda: (model.trunk, model.tasks, batch))  # type: ignore[return-value]


def test_several_threads_leave_nothing_behind() -> None:
    model, batch = many_heads("autocast", heads=2)
    kind = torch.amp.autocast_mode.autocast
    before = (kind.__init__, kind.__enter__, kind.__exit__)
    kernels = torch._C._dispatch_get_registrations_for_dispatch_key("AutocastCPU")
    peaks: list[Any] = []

    def work() -> None:
        peaks.extend(predict(model.trunk, model.tasks, batch, edition=Split()).peak_bytes for _ in range(3))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(peaks) == 9
    assert len(set(peaks)) == 1
    assert (kind.__init__, kind.__enter__, kind.__exit__) == before
    assert torch._C._dispatch_get_registrations_for_dispatch_key("AutocastCPU") == kernels


def test_autocast_that_was_made_long_ago() -> None:
    """On a machine without CUDA such an object has turned itself off when it was made; that is said."""
    with pytest.warns(UserWarning, match="CUDA is not available"):
        old = torch.autocast("cuda", torch.bfloat16)

    def run(z: Any, batch: Any) -> Tensor:
        with old:
            return F.linear(z, z).float().sum()

    assert "turned itself off" in one_task(run).caveats[0]
    assert old.device == "cuda"
    old._enabled = True  # as it would be on a machine with CUDA

    def check(z: Any, batch: Any) -> Any:
        with old:
            assert F.linear(z, z).dtype is torch.bfloat16
        return run(z, batch)

    assert not any("turned itself off" in caveat for caveat in one_task(check).caveats)


def test_a_task_without_labels_is_absent_in_a_prediction_too() -> None:
    tasks = {
        "a": Task(nn.Linear(8, 500), nn.CrossEntropyLoss(ignore_index=-100), "a", count=count_labels("a")),
        "b": Task(nn.Linear(8, 3), nn.MSELoss(), "b"),
    }
    model = MultiTaskModel(nn.Linear(4, 8), tasks, "x")
    batch = {"x": torch.randn(64, 4), "a": torch.full((64,), -100), "b": torch.randn(64, 3)}
    step = TrainingStep(model.trunk, model.tasks, batch, None, Split())
    step()
    with step.tensor_meter() as meter:
        step()
    found = predict(model.trunk, model.tasks, batch, edition=Split(), device="cpu")
    assert found.peak_bytes == pytest.approx(meter.result().peak_bytes, abs=64)  # the count itself, and its copy
    assert found.caveats == ()
    meta = {name: tensor.to("meta") for name, tensor in batch.items()}
    unknown = predict(model.trunk, model.tasks, meta, edition=Split(), device="cpu")
    assert unknown.peak_bytes > found.peak_bytes + 64 * 500 * 4
    assert unknown.caveats[0].startswith("counts are not known without data")


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        (SDPBackend.FLASH_ATTENTION, "_scaled_dot_product_flash_attention"),
        (SDPBackend.EFFICIENT_ATTENTION, "_scaled_dot_product_efficient_attention"),
        (SDPBackend.MATH, "_safe_softmax"),
    ],
)
def test_the_users_choice_of_an_attention_kernel_counts(backend: Any, expected: str) -> None:
    model, batch = transformer("autocast", width=32)
    with sdpa_kernel(backend), DryRun((model.trunk, model.tasks, batch, None), cuda=True) as dry_run:
        dry_run.step(SummedLoss())
    kernels = {"_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention", "_safe_softmax"}
    assert dry_run.operators & kernels == {expected}


@pytest.mark.parametrize(("width", "values"), [(8, 16), (6, 6)], ids=["other width", "crooked"])
def test_attention_of_sizes_that_fast_kernels_do_not_take(width: int, values: int) -> None:
    def attend(z: Any, batch: Any) -> Tensor:
        q = torch.ones(2, 3, 5, width).bfloat16() * z.sum().bfloat16()
        v = torch.ones(2, 3, 5, values).bfloat16() * z.sum().bfloat16()
        out = F.scaled_dot_product_attention(q, q, v)
        assert out.shape == v.shape
        return out.float().sum()

    assert one_task(attend).peak_bytes > 0


def test_devices_by_number_and_unusual_optimizers() -> None:
    model, batch = many_heads(heads=1)

    def moved(z: Any, batch: Any) -> Tensor:
        return (z.to(0) + torch.zeros(4, device=0)).sum()

    assert one_task(moved, device=torch.device("cuda")).device == "cuda"
    rate = torch.optim.AdamW(model.parameters(), lr=torch.tensor(1e-3))
    assert predict(model.trunk, model.tasks, batch, optimizer=rate, edition=Split()).peak_bytes > 0
    nadam = torch.optim.NAdam(model.parameters())
    with pytest.raises(PredictionError, match="ZeroDivisionError.*measure with compare"):
        predict(model.trunk, model.tasks, batch, optimizer=nadam, edition=Split(), device="cpu")


def test_a_loop_until_a_value_changes_ends() -> None:
    def loop(z: Any, batch: Any) -> Tensor:
        while z.max() > 0:
            z = z * 0.5
        return z.sum()

    with pytest.raises(PredictionError, match="more than 10000 values were read"):
        one_task(loop, device="cpu")


def test_everybodys_random_state_stays() -> None:
    def draw(z: Any, batch: Any) -> Tensor:
        random.random()
        numpy.random.rand()
        return z.sum()

    trunk, batch = nn.Linear(4, 4), torch.randn(6, 4)
    before = random.getstate(), numpy.random.get_state()[1].copy(), torch.get_rng_state()
    predict(trunk, {"a": Applied(draw)}, batch, edition=Split())
    assert random.getstate() == before[0]
    assert (numpy.random.get_state()[1] == before[1]).all()
    assert torch.equal(torch.get_rng_state(), before[2])


def test_errors_of_the_network_are_its_own(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes|reduction dim"):
        one_task(lambda z, batch: F.linear(z, torch.ones(3, 3)).sum(), device="cpu")
    assert not caplog.records, "torch's own page of traceback"
    with pytest.raises(RuntimeError, match="expected gradients to be enabled"), torch.no_grad():
        one_task(lambda z, batch: z.sum(), device="cpu")
    with pytest.raises(TypeError, match="expected a 0-dim tensor as loss, found float"):
        one_task(lambda z, batch: 1.0, device="cpu")


def test_wrong_arguments_get_one_line(tmp_path: Path) -> None:
    model, batch = many_heads(heads=1)
    parts = (model.trunk, model.tasks, batch)
    for device in ("cuda:abc", "gpu", torch.device("meta")):
        with pytest.raises(ValueError, match="device must be cpu or cuda"):
            predict(*parts, edition=Split(), device=device)
    with pytest.raises(TypeError, match="edition must have forward_backward, found 'split'"):
        predict(*parts, edition="split")
    with pytest.raises(TypeError, match="edition must be an instance, found the class Split"):
        predict(*parts, edition=Split)
    with pytest.raises(TypeError, match="tasks must be a mapping from names to tasks, found list"):
        predict(model.trunk, list(model.tasks.values()), batch, edition=Split())
    with pytest.raises(ValueError, match="snapshot must be a file in a folder that exists"):
        predict(*parts, edition=Split(), snapshot=tmp_path / "no" / "a.pickle")
    predict(*parts, edition=Split(), snapshot=str(tmp_path / "a.pickle"))
    assert (tmp_path / "a.pickle").exists()
    model.trunk.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(TypeError, match=r"cannot be copied \(.*lock.*pass build= instead"):
        predict(*parts, edition=Split())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # inductor's own imports
@pytest.mark.parametrize("backend", ["inductor", "aot_eager"])
def test_a_compiled_network_is_predicted_as_if_it_were_not(backend: str) -> None:
    model, batch = many_heads(heads=1)
    trunk = Take(torch.compile(nn.Linear(9, 16), backend=backend))
    found = predict(trunk, model.tasks, batch, edition=Split(), device="cpu")
    assert found.caveats == ("compiled code is predicted as if it were not compiled: it may need less",)
    plain = predict(Take(nn.Linear(9, 16)), model.tasks, batch, edition=Split(), device="cpu")
    assert found.peak_bytes == plain.peak_bytes


class Take(nn.Module):
    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, batch: Any) -> Any:
        return self.layer(batch["x"])
