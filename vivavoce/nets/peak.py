"""The most bytes of tensors that are alive at once while code runs; on the meta device, without any memory or time to speak of."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(run: Callable[[], object], *, held: Iterable[Tensor] = ()) -> int:
    """Bytes of tensors made by ``run`` that live at its worst moment, views counted once.

    ``held``: tensors that were there before, such as weights; they don't count, nor do their views. What kernels use inside
    (workspaces) and what an allocator keeps or wastes is not seen.
    """
    counter = _Alive()
    known = [tensor.untyped_storage() for tensor in held]
    counter.ignored = {storage._cdata for storage in known}
    with torch.no_grad(), _FusedAttention(), counter:
        kept = run()
    del kept, known
    return counter.peak


class _FusedAttention(TorchFunctionMode):
    """Attention on the meta device makes what fused kernels make, the result, and no matrix of tokens by tokens."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            query = args[0] if args else kwargs["query"]
            if query.device.type == "meta":
                return torch.empty_like(query)
        return func(*args, **kwargs)


class _Alive(TorchDispatchMode):
    """Adds up storages as operations make them, and takes them off when the last tensor on them is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self.ignored: set[int] = set()
        self._bytes: dict[int, int] = {}
        self._now = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor):
                self._see(value.untyped_storage())
        return made

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._bytes or key in self.ignored:
            return
        self._bytes[key] = storage.nbytes()
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self._now -= self._bytes.pop(key)
