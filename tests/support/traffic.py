"""Every collective of a thread, and the bytes of its tensors, as torch's dispatcher sees them."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Traffic(TorchDispatchMode):
    """Counts while it is entered: `calls` has (collective, bytes of its result) in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation; write it down if it is a collective."""
        if func.namespace == "c10d":
            self.calls.append((func._opname, sum(x.nbytes for x in tree_leaves(args[0]) if isinstance(x, torch.Tensor))))
        return func(*args, **(kwargs or {}))

    @property
    def bytes(self) -> int:
        """Of all of them."""
        return sum(size for _, size in self.calls)
