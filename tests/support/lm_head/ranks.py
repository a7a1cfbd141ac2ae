"""Four processes, 2 × 2: the head's vocabulary over two of them, each sequence's tokens over the other two.

Started by linear/test_distributed.py through torch.multiprocessing; every rank returns its part as plain tensors.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gspo_torch
import torch
import torch.distributed as dist
from gspo_torch import KLTerm, VocabularyShard, sum_over
from support.lm_head.cases import Problem, make, with_kl

from gspo_core import GRPO, GSPO_TOKEN, Padded, Turns, sharded
from gspo_core.kl import K3

WORLD, LENGTHS, WIDTH, VOCABULARY = 4, (4, 7, 0, 3, 6), 6, 13


@dataclass(frozen=True)
class Split:
    """Where the head and the sequences are cut in two."""

    row: int
    """Rows of the head on the first rank."""
    column: int
    """Token columns on the first rank."""
    options: tuple[str, ...] = ()


SPLITS = {
    "uneven": Split(5, 3),
    "no row on the second rank": Split(VOCABULARY, 4),
    "no row on the first rank": Split(0, 1),
    "no token on the second rank": Split(6, 7),
    "no token on the first rank": Split(7, 0, ("entropy",)),
    "entropy, KL, cap and temperature": Split(4, 2, ("entropy", "kl", "cap")),
    "token ratios": Split(9, 5, ("token ratios",)),
    "per-token advantages, log-probs": Split(3, 4, ("per token", "return_logp")),
}


def problem_of(split: Split) -> Problem:
    """The whole problem, the same on every rank; sequences 0 and 3 clipped."""
    options: dict[str, Any] = {}
    if "entropy" in split.options:
        options["entropy_bonus"] = 0.1
    if "cap" in split.options:
        options |= {"soft_cap": 4.0, "temperature": 0.8}
    more: dict[str, Any] = {"advantage": torch.tensor([1.0, -1.0, 3.0, -2.0, 0.0], dtype=torch.float64)}
    if "token ratios" in split.options:
        more["objective"] = GRPO
    if "per token" in split.options:
        more["objective"] = GSPO_TOKEN
        more["advantage"] = torch.arange(35.0, dtype=torch.float64).reshape(5, 7) % 4 - 1
    problem = make(3, LENGTHS, WIDTH, VOCABULARY, drift=1e-3, options=options, **more)
    assert problem.old_logp is not None
    moved = torch.tensor([1.0, 0.0, 0.0, -1.0, 0.0], dtype=torch.float64)[:, None]
    problem = replace(problem, old_logp=problem.old_logp - moved)
    return with_kl(problem, K3()) if "kl" in split.options else problem


class Exchanges:
    """Every all-reduce of a rank: (operation, elements)."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self._real = dist.all_reduce

    def __enter__(self) -> list[tuple[str, int]]:
        def counted(x: torch.Tensor, op: Any = dist.ReduceOp.SUM, group: Any = None) -> Any:
            self.seen.append(("max" if op == dist.ReduceOp.MAX else "sum", x.numel()))
            return self._real(x, op, group=group)

        dist.all_reduce = counted
        return self.seen

    def __exit__(self, *_: object) -> None:
        dist.all_reduce = self._real


def part_of(whole: Problem, rank: int, split: Split, of_vocabulary: Any, of_tokens: Any) -> Problem:
    """This rank's columns of the tokens and rows of the head; the groups are those that it shares the others with."""
    row, column = divmod(rank, 2)
    rows = slice(0, split.row) if row == 0 else slice(split.row, None)
    columns = slice(0, split.column) if column == 0 else slice(split.column, None)
    options = dict(whole.options)
    if "kl" in options:
        options["kl"] = KLTerm(options["kl"].estimator, options["kl"].ref_logp[:, columns], options["kl"].coefficient)
    assert whole.old_logp is not None
    assert whole.bias is not None
    advantage: Any = whole.advantage
    return replace(
        whole,
        hidden=whole.hidden.detach()[:, columns].clone().requires_grad_(),
        lm_head=whole.lm_head.detach()[rows].clone().requires_grad_(),
        bias=whole.bias.detach()[rows].clone().requires_grad_(),
        tokens=whole.tokens[:, columns],
        old_logp=whole.old_logp[:, columns],
        advantage=advantage[:, columns] if advantage.ndim == 2 else advantage,
        layout=sharded(Padded(whole.layout.valid[:, columns]), sum_over(of_tokens)),
        options=options | {"vocabulary": VocabularyShard(rows.start, VOCABULARY, of_vocabulary)},
    )


def one_rank(rank: int, split: Split, groups: list[Any]) -> dict[str, Any]:
    """This rank's answers: loss, log-probs, gradients of its columns and rows, and what it exchanged."""
    row, column = divmod(rank, 2)
    of_vocabulary, of_tokens = groups[0][column], groups[1][row]
    part = part_of(problem_of(split), rank, split, of_vocabulary, of_tokens)
    with Exchanges() as forward:
        loss = part.loss(return_logp="return_logp" in split.options)
    with Exchanges() as backward:
        loss.value.backward()
    # A context-parallel trainer adds up the head's gradients over ranks of one vocabulary shard, as for data parallelism.
    for leaf in (part.lm_head, part.bias):
        assert leaf is not None
        assert leaf.grad is not None
        dist.all_reduce(leaf.grad, group=of_tokens)
    with torch.no_grad():
        valid = part.layout.valid
        vocabulary = part.options["vocabulary"]
        scores = gspo_torch.token_scores(
            part.hidden[valid],
            part.lm_head,
            part.tokens[valid],
            bias=part.bias,
            vocabulary=vocabulary,
            sum_pi_squared=True,
        )
    return {
        "value": loss.value.detach(),
        "logp_grad": loss.logp_grad,
        "clipped": loss.clipped,
        "log_ratio": loss.log_ratio,
        "logp": loss.logp,
        "hidden": part.hidden.grad,
        "lm_head": part.lm_head.grad,
        "bias": part.bias.grad if part.bias is not None else None,
        "scores": tuple(scores),
        "forward": forward,
        "backward": backward,
    }


def unequal(rank: int) -> list[str]:
    """What is said of layouts, and of turns, of which the last rank has one more than the others."""
    more = int(rank == WORLD - 1)
    padded = Padded(torch.ones(2, 3) > 0)
    cases = [Padded(torch.ones(2 + more, 3) > 0), Turns(padded, torch.zeros(2, 3, dtype=torch.int64), 1 + more)]
    said = []
    for layout in cases:
        try:
            sharded(layout, sum_over())
        except ValueError as error:
            said.append(str(error))
    return said


def main(rank: int, folder: str) -> None:
    """Every split, one after another; answers go to a file."""
    torch.set_num_threads(1)
    patience = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", patience, WORLD, rank)
    # groups[0][column]: ranks that share a column, hence the head; groups[1][row]: ranks that share rows of the head.
    groups = [[dist.new_group([c, c + 2]) for c in (0, 1)], [dist.new_group([r, r + 1]) for r in (0, 2)]]
    answers: dict[str, Any] = {name: one_rank(rank, split, groups) for name, split in SPLITS.items()}
    answers["unequal"] = unequal(rank)
    torch.save(answers, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
