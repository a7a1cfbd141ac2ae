"""The block of docs/in-your-trainer.md; test_custom_loss.py calls its functions inside of tinker's step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from support.pages import DOCS, blocks, run, section
from tinker.types import TensorData

PAGE = (DOCS / "in-your-trainer.md").read_text(encoding="utf-8")


def test_the_block_of_the_page() -> None:
    (block,) = blocks(section(PAGE, "tinker"))
    scope: dict[str, Any] = {"__name__": "page"}
    run(block.code, scope, "in-your-trainer.md")
    old, advantages = torch.full((3,), -1.0), torch.full((3,), 2.0)
    fields = {"logprobs": TensorData.from_torch(old), "advantages": TensorData.from_torch(advantages)}
    data = [SimpleNamespace(loss_fn_inputs=fields)]
    client = SimpleNamespace(forward_backward_custom=lambda given, loss_fn: loss_fn(given, [old.clone().requires_grad_()]))
    value, metrics = scope["in_two_passes"](client, data)
    assert float(value) == -2.0
    assert metrics["gspo/tokens"] == 3
    assert torch.allclose(scope["weights_for_one_pass"](data, [old])[0], advantages / 3)
