"""The model of a run as its processes hold it: in one piece, copied by DDP, or shared out by FSDP2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, TypeVar

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers.modeling_layers import GradientCheckpointingLayer

from integration.on_torch.parallel.processes import Processes
from integration.on_torch.sampling.growing import without_cache
from integration.on_torch.sampling.reading import head_inputs
from integration.options.config import Config
from integration.options.errors import UserError

T = TypeVar("T")


class Passes(Protocol):
    """Passes of a model with gradient. Their gradients are averaged over all processes, where there are several."""

    gradient_scale: float
    """A loss is multiplied by it before `backward`, so that the average over processes is the sum over responses."""

    def run(self, work: Callable[[Any], T]) -> T:
        """`work(model)`, with all weights of the model in their places."""

    def whole(self) -> AbstractContextManager[None]:
        """Inside, the model has all of its weights, and passes without gradient exchange nothing."""

    def accumulating(self) -> AbstractContextManager[None]:
        """Around all micro-batches of an optimizer step but the last: their gradients may wait to be averaged."""


class OnePiece:
    """The model of a run of one process."""

    gradient_scale = 1.0

    def __init__(self, model: Any) -> None:
        self._model = model

    def run(self, work: Callable[[Any], T]) -> T:
        """As in Passes."""
        return work(self._model)

    def whole(self) -> AbstractContextManager[None]:
        """As in Passes."""
        return nullcontext()

    def accumulating(self) -> AbstractContextManager[None]:
        """As in Passes."""
        return nullcontext()


class Within(nn.Module):
    """A model, and the computation of its loss as one forward pass: it is on forward passes that DDP and FSDP2 act."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[Any], T]) -> T:
        """`work(model)`."""
        return work(self.model)


class Copied:
    """DDP: every process has the whole model; gradients are averaged while the backward pass still runs."""

    def __init__(self, model: Any, mesh: DeviceMesh, ids: torch.Tensor) -> None:
        self.gradient_scale = _scale(mesh)
        unused = has_unused(model, ids)
        self._module = DistributedDataParallel(Within(model), find_unused_parameters=unused, forward_sync_buffers=False)

    def run(self, work: Callable[[Any], T]) -> T:
        """As in Passes."""
        result: T = self._module(work)
        return result

    def whole(self) -> AbstractContextManager[None]:
        """As in Passes."""
        return nullcontext()

    def accumulating(self) -> AbstractContextManager[None]:
        """As in Passes."""
        waiting: AbstractContextManager[None] = self._module.no_sync()
        return waiting


class SharedOut:
    """FSDP2: every process keeps its part of each layer's weights, and gathers a layer when it is computed.

    Gradients are scattered after every micro-batch, so that none is kept whole. While responses are sampled each process
    gathers all weights, as an inference engine would hold them.
    """

    def __init__(self, model: Any, mesh: DeviceMesh, ids: torch.Tensor) -> None:
        self.gradient_scale = _scale(mesh)
        flat = mesh._flatten("all")
        layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        if not layers:
            raise UserError(f"--parallel fsdp: {type(model).__name__} has no layers that can be shared out; use ddp")
        for layer in layers:
            fully_shard(layer, mesh=flat)
        self._module: Any = Within(model)
        fully_shard(self._module, mesh=flat)
        self._units: list[Any] = [module for module in self._module.modules() if isinstance(module, FSDPModule)]
        self._depth = 0
        with torch.no_grad():  # FSDP2 makes itself ready in a first pass of the whole
            self.run(lambda whole: head_inputs(whole, ids, **without_cache(whole)))
        self._units[0].reshard()  # after a pass without gradient the outermost part keeps its whole weights

    def run(self, work: Callable[[Any], T]) -> T:
        """As in Passes."""
        result: T = self._module(work)
        return result

    @contextmanager
    def whole(self) -> Iterator[None]:
        """As in Passes; one inside another changes nothing."""
        self._depth += 1
        if self._depth == 1:
            for unit in self._units:
                unit.set_reshard_after_forward(False, recurse=False)
                unit.unshard()
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                for unit in self._units:
                    unit.reshard()
                    unit.set_reshard_after_forward(unit is not self._module, recurse=False)

    def accumulating(self) -> AbstractContextManager[None]:
        """As in Passes."""
        return nullcontext()


def wrapped(model: Any, config: Config, processes: Processes, ids: torch.Tensor) -> Passes:
    """The model as --parallel says, for passes over texts such as `ids` [1, P]."""
    if processes.mesh is None:
        return OnePiece(model)
    kind = SharedOut if config.parallel == "fsdp" else Copied
    return kind(model, processes.mesh, ids)


def has_unused(model: Any, ids: torch.Tensor) -> bool:
    """Whether a pass over `ids` [1, P] leaves out a parameter that is to be trained: DDP has to look for such ones."""
    given = [parameter for parameter in model.parameters() if parameter.requires_grad]
    head = model.get_output_embeddings().weight
    states = head_inputs(model, ids, **without_cache(model))
    value = states.float().sum() + (head.float().sum() if head.requires_grad else 0.0)
    return any(gradient is None for gradient in torch.autograd.grad(value, given, allow_unused=True))


def _scale(mesh: DeviceMesh) -> float:
    """Processes of different responses or tokens: those that share a head compute the same loss."""
    names = mesh.mesh_dim_names or ()
    return float(mesh.size() // mesh.size(names.index("vocabulary")))
