"""CUDA's operators for tensors on the CPU: dropout, attention and autocast as a GPU runs them."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mtl_accum._torch_pytree import tree_map_only

__all__ = ["cuda_operators", "prefer_foreach"]

_aten = torch.ops.aten
_AUTOGRAD, _AUTOCAST, _CUDA_AUTOCAST = "AutogradCPU", "AutocastCPU", "AutocastCUDA"

# Operators that CUDA's autocast casts and the CPU's does not (ATen/autocast_mode.h); all others run in float32.
_LOWER = {"mv", "addmv", "addr", "einsum", "convolution", "_convolution", "prelu", "chain_matmul", "linalg_multi_dot"}
_LOWER |= {"_thnn_fused_lstm_cell", "_thnn_fused_gru_cell", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"}
_LOWER |= {"_scaled_dot_product_flash_attention"}
_PROMOTE = {"addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "vdot", "index_put", "tensordot", "scatter_add"}
_FLOAT32_RESULT = {"prod", "softmax", "log_softmax", "cumprod", "cumsum", "sum"}  # through their dtype argument

_LARGEST_FLASH_HEAD = 256  # elements
_TURNED_OFF = (
    "an autocast for CUDA was made without such a device and turned itself off: predicted without it; make it inside "
    "forward, or the network inside build="
)
_LOCK = threading.RLock()


@contextmanager
def cuda_operators() -> Iterator[list[str]]:
    """Make operators on CPU tensors save the same tensors as on a CUDA device.

    - Dropout saves a mask of one byte per element; the CPU's is as wide as the data.
    - Attention runs the flash kernel in 16 bit without a mask, else the memory-efficient kernel.
    - Autocast casts by CUDA's lists, and `torch.autocast("cuda")` works without such a device.

    The operators are replaced in torch's dispatcher, for all threads, until the block ends. A second block waits for
    that.

    Yields:
        List of caveats, to which one is added for every autocast that had turned itself off before.
    """
    with _LOCK, _autocast_on_cpu() as turned_off:
        library = torch.library.Library("aten", "IMPL")
        try:
            library.impl("dropout", _dropout, _AUTOGRAD)
            library.impl("scaled_dot_product_attention", _attention, _AUTOGRAD)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about replaced operators, which is the purpose
                _replace_autocast(library)
            yield turned_off
        finally:
            library._destroy()


def prefer_foreach(optimizer: torch.optim.Optimizer) -> None:
    """Set an optimizer to CUDA's default implementation, which updates all parameters at once with temporary lists."""
    for group in optimizer.param_groups:
        # With a tensor as learning rate, foreach is not torch's choice either.
        tensor_rate = isinstance(group.get("lr"), Tensor) and not group.get("capturable")
        if "foreach" in group and group["foreach"] is None and not group.get("fused") and not tensor_rate:
            group["foreach"] = True


def _dropout(tensor: Tensor, p: float, train: bool) -> Tensor:
    if not train or p == 0 or not tensor.numel():
        return tensor
    if p == 1:
        return tensor * torch.zeros_like(tensor)
    return _aten.native_dropout(tensor, p, True)[0]  # type: ignore[no-any-return]


def _attention(  # noqa: PLR0917  # the operator's signature
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if _flash(query, value, attn_mask):
        return _aten._scaled_dot_product_flash_attention(  # type: ignore[no-any-return]
            query, key, value, dropout_p, is_causal, False, scale=scale
        )[0]
    if enable_gqa:
        key, value = _repeated(query, key, value)
    if not _efficient(query, value):
        return _aten._scaled_dot_product_attention_math(  # type: ignore[no-any-return]
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale
        )[0]
    if attn_mask is not None:
        if attn_mask.dtype is torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, float("-inf"))
        attn_mask = attn_mask.to(query.dtype).expand(*query.shape[:3], key.size(2))
    keeps = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    return _aten._scaled_dot_product_efficient_attention(  # type: ignore[no-any-return]
        query, key, value, attn_mask, keeps, dropout_p, is_causal, scale=scale
    )[0]


def _flash(query: Tensor, value: Tensor, attn_mask: Tensor | None) -> bool:
    """Return whether a recent device runs the flash kernel (ATen/native/transformers/cuda/sdp_utils.cpp)."""
    enabled = torch.backends.cuda.flash_sdp_enabled() and query.dim() == 4 and attn_mask is None
    return enabled and _is_half(query) and query.size(-1) == value.size(-1) <= _LARGEST_FLASH_HEAD


def _efficient(query: Tensor, value: Tensor) -> bool:
    """Return whether a recent device runs the memory-efficient kernel; in float64 and for odd sizes it runs neither."""
    enabled = torch.backends.cuda.mem_efficient_sdp_enabled() and query.dim() == 4
    step = 8 if _is_half(query) else 4
    fits = not query.size(-1) % step and not value.size(-1) % step
    return enabled and query.dtype is not torch.float64 and fits


def _repeated(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    times = query.size(-3) // key.size(-3)
    return key.repeat_interleave(times, -3), value.repeat_interleave(times, -3)


def _replace_autocast(library: torch.library.Library) -> None:
    """Replace the CPU's autocast rules by CUDA's, for every operator where they differ."""
    on_cpu = set(torch._C._dispatch_get_registrations_for_dispatch_key(_AUTOCAST))
    on_cuda = set(torch._C._dispatch_get_registrations_for_dispatch_key(_CUDA_AUTOCAST))
    for registered in sorted(on_cpu - on_cuda):
        if registered.startswith("aten::"):
            library.impl(registered.removeprefix("aten::"), torch.library.fallthrough_kernel, _AUTOCAST)
    for registered in sorted(on_cuda - on_cpu):
        name, _, overload = registered.removeprefix("aten::").partition(".")
        packet = getattr(_aten, name, None)
        if registered.startswith("aten::") and packet is not None and name not in _PROMOTE:
            operator = getattr(packet, overload or "default")
            library.impl(registered.removeprefix("aten::"), _casting(operator, name), _AUTOCAST)


def _casting(operator: Any, name: str) -> Callable[..., Any]:
    """Return an operator that casts its arguments first, as CUDA's autocast does."""
    autocast_keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
    takes_dtype = name in _FLOAT32_RESULT

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(autocast_keys):
            if takes_dtype:
                has_dtype = any(isinstance(value, torch.dtype) for value in (*args, *kwargs.values()))
                if not has_dtype and _is_half(args[0]):
                    kwargs["dtype"] = torch.float32
            else:
                target = torch.get_autocast_dtype("cpu") if name in _LOWER else torch.float32
                args, kwargs = tree_map_only(Tensor, lambda t: _cast(t, target), (args, kwargs))
            return operator(*args, **kwargs)

    return run


def _is_half(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float16, torch.bfloat16)


def _cast(tensor: Tensor, target: torch.dtype) -> Tensor:
    return tensor.to(target) if tensor.is_floating_point() and tensor.dtype is not torch.float64 else tensor


@contextmanager
def _autocast_on_cpu() -> Iterator[list[str]]:
    """Turn this thread's autocasts for CUDA into autocasts for the CPU, made inside the block or before it.

    Yields:
        List to which a caveat is added for every autocast that had turned itself off before.
    """
    kind: Any = torch.amp.autocast_mode.autocast
    thread = threading.get_ident()
    original = kind.__init__, kind.__enter__, kind.__exit__
    changed: set[int] = set()
    turned_off: list[str] = []

    def init(self: Any, device_type: str, dtype: torch.dtype | None = None, *args: Any, **kwargs: Any) -> None:
        if device_type == "cuda" and threading.get_ident() == thread:  # without such a device autocast turns itself off
            device_type, dtype = "cpu", dtype or torch.get_autocast_dtype("cuda")
        original[0](self, device_type, dtype, *args, **kwargs)

    def enter(self: Any) -> Any:
        if self.device == "cuda" and threading.get_ident() == thread:
            changed.add(id(self))
            self.device = "cpu"
            if not self._enabled and not torch.cuda.is_available():
                turned_off.append(_TURNED_OFF)
        return original[1](self)

    def leave(self: Any, *exception: Any) -> Any:
        try:
            return original[2](self, *exception)
        finally:
            if id(self) in changed:
                changed.remove(id(self))
                self.device = "cuda"

    kind.__init__, kind.__enter__, kind.__exit__ = init, enter, leave
    try:
        yield turned_off
    finally:
        kind.__init__, kind.__enter__, kind.__exit__ = original
