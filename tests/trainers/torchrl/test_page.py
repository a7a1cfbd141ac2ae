"""The block of docs/in-your-trainer.md, with a network of torchrl's kind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from support.pages import DOCS, blocks, run, section
from support.trainers.paper import paper
from support.trainers.rows_in_torch import rows
from tensordict import TensorDict

PAGE = (DOCS / "in-your-trainer.md").read_text(encoding="utf-8")


class Network(torch.nn.Module):
    """Its distribution is made by hand; GRPOLoss asks for nothing else."""

    in_keys = ("tokens",)

    def __init__(self, logp: torch.Tensor, mask: torch.Tensor) -> None:
        super().__init__()
        self.logp, self.mask = torch.nn.Parameter(logp), mask

    def get_dist(self, tensordict: Any, **_: Any) -> SimpleNamespace:
        """Of the tokens of the batch."""
        return SimpleNamespace(mask=self.mask, log_prob=lambda _: self.logp)


def test_the_block_of_the_page() -> None:
    (block,) = blocks(section(PAGE, "torchrl"))
    scope: dict[str, Any] = {"__name__": "page"}
    run(block.code, scope, "in-your-trainer.md")
    batch = rows(4)
    network = Network(batch.logp, batch.mask)
    fields = {"advantage": batch.advantages[..., None], ("log_probs", "full"): batch.old}
    fields |= {("tokens", "full"): torch.zeros(batch.mask.shape, dtype=torch.int64)}
    share = scope["update"](network, TensorDict(fields, batch_size=[len(batch.mask)]), 5)
    exact = paper("GSPO", batch.logp, batch.old, batch.advantages, batch.mask)
    assert torch.allclose(network.logp.grad, torch.from_numpy(exact.grad))
    assert 0 <= share <= 1
