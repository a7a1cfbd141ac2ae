"""Context parallelism: the tokens of each sequence are spread over a group of ranks, in the model and in the loss.

Every rank of the group has the same responses. Column c of a batch reads token c and predicts token c + 1, and both numbers are
known before the columns are shared out: the rank that holds a column scores its prediction, and nothing is exchanged for it.
Ranks send keys and values in every attention layer (`attention`), 12 bytes a sequence in the loss (`gspo_core.sharded`), and
a few numbers a token afterwards, so that every rank has the whole arrays from which metrics are made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from gspo_torch import KLTerm, sum_over
from torch import Tensor

from gspo_core import Padded, PerToken, sharded
from gspo_core.layouts import Layout
from gspo_core.objectives import LinearLoss
from integration.on_torch.parallel.attention import spread_attention
from integration.on_torch.parallel.columns import Columns
from integration.on_torch.sampling.growing import positions
from integration.on_torch.sampling.reading import head_inputs
from integration.on_torch.sampling.rollout import Responses


@dataclass(frozen=True)
class Context:
    """The ranks that share the tokens of each sequence."""

    group: dist.ProcessGroup
    zigzag: bool = True

    @contextmanager
    def split(self, model: Any, part: Responses) -> Iterator[Split]:
        """Around forward and backward of a micro-batch: the share of this rank, whose passes attend to all columns."""
        prompt, answer = part.prompt_ids.shape[1], part.tokens.shape[1]
        columns = Columns(prompt + answer - 1, dist.get_world_size(self.group), self.zigzag)
        with spread_attention(model, columns, self.group) as exchange:
            yield Split(model, part, columns, self.group, exchange.mine)


class Split(NamedTuple):
    """This rank's share of a micro-batch: w columns, of which some predict tokens of the responses."""

    model: Any
    part: Responses
    columns: Columns
    group: dist.ProcessGroup
    mine: Tensor
    """[w] numbers of the columns."""

    def states(self) -> Tensor:
        """[N, w, H] what reaches the LM head in this rank's columns."""
        part = self.part
        ids = self._widened(torch.cat([part.prompt_ids, part.tokens], 1)[:, :-1])
        mask = torch.cat([part.prompt_mask, part.mask.to(part.prompt_mask.dtype)], 1)[:, :-1]
        mask = self._widened(mask)
        where = {"attention_mask": mask, "position_ids": positions(mask)[:, self.mine]}
        return head_inputs(self.model, ids[:, self.mine], use_cache=False, **where)

    def layout(self) -> Layout:
        """Of this rank's predictions; sums over sequences are those of the group."""
        return sharded(Padded(self.take(self.part.mask)), sum_over(self.group))

    def take(self, x: Tensor) -> Tensor:
        """[N, T] numbers of the responses' tokens ↦ [N, w] of those that this rank's columns predict, 0 in the others."""
        before = self.part.prompt_ids.shape[1] - 1
        return self._widened(torch.nn.functional.pad(x, (before, 0)))[:, self.mine]

    def take_advantage(self, advantage: Tensor | PerToken) -> Tensor | PerToken:
        """`take` of advantages per token; those per response are the same on every rank."""
        return PerToken(self.take(advantage.values)) if isinstance(advantage, PerToken) else advantage

    def take_term(self, kl: KLTerm | None) -> KLTerm | None:
        """`take` of the reference's log-probs."""
        return None if kl is None else KLTerm(kl.estimator, self.take(kl.ref_logp), kl.coefficient)

    def whole(self, loss: LinearLoss) -> LinearLoss:
        """The loss with token arrays [N, T] of all ranks; its value keeps this rank's gradient."""
        names = [name for name in ("logp_grad", "log_ratio", "clipped", "logp", "entropy") if _is_per_token(loss, name)]
        policy = loss.policy
        arrays = [getattr(loss, name) for name in names] + ([] if policy is None else [policy.logp_grad])
        rows = torch.stack([x.detach().to(loss.logp_grad.dtype) for x in arrays])
        ranks = rows.new_empty(self.columns.ranks, *rows.shape)
        dist.all_gather(list(ranks), rows, group=self.group)
        along = ranks.movedim(0, 2).flatten(2, 3)[..., self.columns.order().to(rows.device)]
        before, width = self.part.prompt_ids.shape[1] - 1, self.columns.width
        found = [x.to(old.dtype) for x, old in zip(along[..., before:width], arrays, strict=True)]
        fields: dict[str, Any] = dict(zip(names, found, strict=False))
        if policy is not None:
            units = {name: x for name, x in fields.items() if name in {"log_ratio", "clipped"}}
            fields["policy"] = policy._replace(logp_grad=found[-1], **units)
        return LinearLoss(**{**dict(zip(loss._fields, loss, strict=True)), **fields})

    def _widened(self, x: Tensor) -> Tensor:
        """[N, width] ↦ [N, padded]."""
        return torch.nn.functional.pad(x, (0, self.columns.padded - x.shape[1]))


def _is_per_token(loss: LinearLoss, name: str) -> bool:
    x = getattr(loss, name)
    return x is not None and x.ndim == 2
