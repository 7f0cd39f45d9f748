"""Snapshots of buffers: tensors and values that come back, copies that are dropped or filled again."""

from __future__ import annotations

import torch
from torch import nn

from mtl_accum._state import BufferSnapshot


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Linear(4, 1)).double()


def test_buffers_that_were_written_to_or_replaced() -> None:
    model = network()
    norm = model[1]
    norm.register_buffer("nothing", None)
    buffers = BufferSnapshot()
    for _ in range(3):
        buffers.renew(list(model.modules()))
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        mean = norm.running_mean
        model(torch.randn(5, 3, dtype=torch.float64))
        norm.running_mean = torch.ones(4, dtype=torch.float64)
        norm.nothing = torch.ones(1)
        buffers.restore()
        assert norm.running_mean is mean
        assert norm.nothing is None
        assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
        model(torch.randn(5, 3, dtype=torch.float64))
    norm.running_mean = torch.ones(4, dtype=torch.float64)  # another tensor from now on
    buffers.renew(list(model.modules()))
    norm.running_mean.zero_()
    buffers.restore()
    assert torch.equal(norm.running_mean, torch.ones(4, dtype=torch.float64))


def test_the_copies_are_filled_again() -> None:
    model = network()
    buffers = BufferSnapshot(model.modules())
    copies = [buffer.value for buffer in buffers.saved]
    model[1].running_mean.fill_(3)
    buffers.renew(list(model.modules()))
    assert all(buffer.value is copy for buffer, copy in zip(buffers.saved, copies, strict=True))
    assert torch.equal(copies[0], torch.full((4,), 3.0, dtype=torch.float64))


def test_the_same_tensor_under_another_name_is_another_buffer() -> None:
    module = nn.Module()
    module.register_buffer("one", torch.zeros(1))
    buffers = BufferSnapshot([module])
    module._buffers["other"] = module._buffers.pop("one")
    buffers.renew([module])
    module._buffers["other"] = torch.ones(1)
    buffers.restore()
    assert list(module._buffers) == ["other"]
    assert module.other == 0


def test_the_first_value_is_kept_where_a_buffer_is_added_twice() -> None:
    norm = network()[1]
    buffers = BufferSnapshot()
    assert len(buffers.add([norm])) == 3
    norm.running_mean.fill_(1)
    assert buffers.add([norm]) == []
    buffers.restore()
    assert torch.equal(norm.running_mean, torch.zeros(4, dtype=torch.float64))


def test_constants_are_discarded_and_statistics_are_kept() -> None:
    module = nn.Module()
    for name, value in {"mask": torch.zeros(300, 300), "count": torch.zeros((), dtype=torch.long)}.items():
        module.register_buffer(name, value)
    module.register_buffer("mean", torch.zeros(3))
    module.register_buffer("later", None)
    buffers = BufferSnapshot([module])
    buffers.discard_unchanged(buffers.saved)
    assert [buffer.name for buffer in buffers.saved] == ["mean"]
    new = buffers.add([module])
    assert [buffer.name for buffer in new] == ["mask", "count", "later"]
    module.count += 1  # type: ignore[assignment]
    module.later = torch.zeros(1)
    module.mask = torch.ones(300, 300)
    buffers.discard_unchanged(new)
    assert [buffer.name for buffer in buffers.saved] == ["mean", "mask", "count", "later"]
    buffers.restore()
    assert module.later is None
    assert module.count == 0
    assert not module.mask.any()


def test_what_cannot_change_or_has_no_value_is_left_out() -> None:
    with torch.inference_mode():
        fixed = torch.zeros(1)
    module = nn.LazyBatchNorm1d()
    module.register_buffer("fixed", fixed)
    assert [buffer.name for buffer in BufferSnapshot([module]).saved] == ["num_batches_tracked"]
