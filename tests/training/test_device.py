"""Which device."""

from __future__ import annotations

import pytest
import torch

from mtl_accum.training._device import describe, resolve, to_device


def test_auto_without_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve("auto") == torch.device("cpu")


def test_cuda_is_numbered(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve("cuda") == torch.device("cuda", 0)
    assert resolve("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ValueError, match="device=cuda:2: expected a CUDA device, found 2 here"):
        resolve("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "tpu:0", "meta", ""])
def test_unknown(name):
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda or cuda:N, found"):
        resolve(name)


def test_no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="device=cuda: expected a CUDA device, found none here; use device=cpu"):
        resolve("cuda")


def test_describe_and_move():
    assert describe(torch.device("cpu"))["threads"] >= 1
    moved = to_device({"x": torch.ones(2), "name": "n"}, torch.device("meta"))
    assert moved["x"].device.type == "meta"
    assert moved["name"] == "n"
