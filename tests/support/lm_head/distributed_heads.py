"""Two processes whose LM head is a DTensor: spread by hand, and by FSDP2. Started by test_distributed_head."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from gspo_torch import VocabularyShard
from support.lm_head.cases import Problem, make
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

WORLD, VOCABULARY = 2, 13
PLACEMENTS = {"rows": Shard(0), "columns": Shard(1), "replicated": Replicate()}
BUDGETS = (0, 2**20)
UNITS = ("its own", "with the norm", "with the norm, kept", "of everything")
"""What `fully_shard` makes one unit with the head; the last two stay whole between forward and backward."""
READ = ("inside", "outside")
"""Where the loss reads the head: in the forward of the module that is the root, or after it."""


def problem_of(rank: int) -> Problem:
    """float64; every rank has a batch of its own, and all have the same head."""
    mine, first = make(rank, vocabulary=VOCABULARY), make(0, vocabulary=VOCABULARY)
    made = replace(mine, lm_head=first.lm_head, bias=first.bias)
    return replace(made, old_logp=None, options={"on_policy": True})


def answer(problem: Problem, bytes_: int) -> dict[str, Any]:
    """Value and gradients; those of a DTensor are put together."""
    loss = problem.loss(budget_bytes=bytes_)
    names = [name for name, x in problem.leaves().items() if x is not None]
    found = torch.autograd.grad(loss.value, [getattr(problem, name) for name in names])
    whole = {name: g.full_tensor() if isinstance(g, DTensor) else g for name, g in zip(names, found, strict=True)}
    return {"value": loss.value.detach(), **whole}


def spread(x: Tensor | None, mesh: DeviceMesh, placement: Any) -> Any:
    """A DTensor leaf."""
    assert x is not None
    return distribute_tensor(x.detach(), mesh, [placement]).requires_grad_()


def by_hand(rank: int, mesh: DeviceMesh) -> dict[str, Any]:
    """Each placement, with the batch of rank 0 on both ranks and with a batch of each rank's own; and as a vocabulary shard."""
    answers: dict[str, Any] = {}
    for (name, placement), same, bytes_ in ((p, s, b) for p in PLACEMENTS.items() for s in (True, False) for b in BUDGETS):
        problem = problem_of(0 if same else rank)
        bias = spread(problem.bias, mesh, Replicate() if name == "columns" else placement)
        split = replace(problem, lm_head=spread(problem.lm_head, mesh, placement), bias=bias)
        answers[f"{name}, {'same' if same else 'own'}, {bytes_}"] = answer(split, bytes_)
    problem = problem_of(0)
    head, bias = (spread(x, mesh, Shard(0)) for x in (problem.lm_head, problem.bias))
    start = 0 if rank == 0 else VOCABULARY - len(head.to_local())
    shard = {"vocabulary": VocabularyShard(start, VOCABULARY, None)}
    answers["shard"] = answer(replace(problem, lm_head=head, bias=bias, options=problem.options | shard), 0)
    return answers


def by_fsdp(rank: int, mesh: DeviceMesh) -> dict[str, Any]:
    """The gradient that `fully_shard` leaves, of a head of its own, outside of its forward."""
    problem = problem_of(rank)
    head = nn.Linear(problem.lm_head.shape[1], VOCABULARY, dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(problem.lm_head)
        head.bias.copy_(problem.bias)
    fully_shard(head, mesh=mesh)
    return {"fsdp": answer(replace(problem, lm_head=head.weight, bias=head.bias), 0)}


class Tail(nn.Module):
    """The end of a model: a norm, and a head that is called without a token, since the loss multiplies.

    The states depend on what the head returns, which is nothing: FSDP2 puts a unit together for the backward pass when a
    gradient reaches the output of its last module. Without it the norm of a unit [norm, head] reads freed memory.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        vocabulary, width = problem.lm_head.shape
        self.norm = nn.RMSNorm(width, eps=1e-6, dtype=torch.float64)
        self.head = nn.Linear(width, vocabulary, dtype=torch.float64)
        assert problem.bias is not None
        with torch.no_grad():
            self.norm.weight.copy_(torch.linspace(0.5, 1.5, width))
            self.head.weight.copy_(problem.lm_head)
            self.head.bias.copy_(problem.bias)

    def forward(self, problem: Problem, read: str) -> Any:
        """The loss, if it is read inside; else the states."""
        hidden = self.normed(problem)
        hidden = hidden + self.head(hidden[..., :0, :]).sum()
        return self.loss(problem, hidden) if read == "inside" else hidden

    def normed(self, problem: Problem) -> Tensor:
        """The states; a norm would spread the NaN of masked slots to the gradient of its weight."""
        states: Tensor = self.norm(problem.hidden.nan_to_num())
        return states

    def loss(self, problem: Problem, hidden: Tensor) -> Tensor:
        """With the head as it is at this moment."""
        return replace(problem, hidden=hidden, lm_head=self.head.weight, bias=self.head.bias).loss().value


def by_units(rank: int, mesh: DeviceMesh) -> dict[str, Any]:
    """The gradients that a backward pass leaves in a model of FSDP2's units."""
    answers: dict[str, Any] = {}
    for unit, read in ((u, r) for u in UNITS for r in READ):
        problem = problem_of(rank)
        tail = Tail(problem)
        if unit != "of everything":
            modules = tail.head if unit == "its own" else [tail.norm, tail.head]
            fully_shard(modules, mesh=mesh, reshard_after_forward="kept" not in unit)
        fully_shard(tail, mesh=mesh)
        found = tail(problem, read)
        value = found if read == "inside" else tail.loss(problem, found)
        value.backward()
        gradients = {name: p.grad.full_tensor() for name, p in tail.named_parameters() if isinstance(p.grad, DTensor)}
        answers[f"{unit}, {read}"] = {"value": value.detach(), **gradients}
    return answers


def by_full_tensor_alone(rank: int, mesh: DeviceMesh) -> dict[str, Any]:
    """The gradient that a head has whose rows were put together by `full_tensor()`, without a word on its gradient."""
    problem = problem_of(rank)
    head = spread(problem.lm_head, mesh, Shard(0))
    loss = replace(problem, lm_head=head.full_tensor()).loss()
    return {"full_tensor alone": torch.autograd.grad(loss.value, head)[0].full_tensor()}


def main(rank: int, folder: str) -> None:
    """All of it; answers go to a file."""
    torch.set_num_threads(1)
    patience = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", patience, WORLD, rank)
    mesh = init_device_mesh("cpu", (WORLD,))
    answers = by_hand(rank, mesh) | by_fsdp(rank, mesh) | by_units(rank, mesh) | by_full_tensor_alone(rank, mesh)
    torch.save(answers, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
