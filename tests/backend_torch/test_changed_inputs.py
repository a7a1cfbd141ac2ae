"""What is changed in place between a loss and its backward: the gradient is that of the loss, or PyTorch refuses.

Buffers that the next batch is copied into are such changes. Autograd notices them for what a function saves with
`save_for_backward`, and for nothing else that it keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gspo_torch
import pytest
import torch
from torch import Tensor

from gspo_core import GSPO, Packed, Padded, SequenceMean, TokenKL
from gspo_core.kl import KLTerm

ROWS, WIDTH, STATES, VOCABULARY = 4, 5, 8, 11
Arrays = dict[str, Tensor]


def arrays(full: bool, packed: bool) -> Arrays:
    """Everything that a loss is given, by name; log-probs near the old ones, so that few tokens are clipped."""
    random = torch.Generator().manual_seed(0)
    drawn = {name: torch.randn(ROWS, WIDTH, generator=random) for name in ("noise", "ref")}
    old = torch.full((ROWS, WIDTH), -torch.tensor(float(VOCABULARY)).log())
    found = {
        "hidden": 1e-5 * torch.randn(ROWS, WIDTH, STATES, generator=random),
        "lm_head": torch.randn(VOCABULARY, STATES, generator=random),
        "bias": torch.zeros(VOCABULARY),
        "tokens": torch.randint(VOCABULARY, (ROWS, WIDTH), generator=random),
        "logp": old + 1e-5 * drawn["noise"],
        "old_logp": old,
        "ref_logp": old + 1e-2 * drawn["ref"],
        "advantage": torch.tensor([1.0, -1.0, 0.5, -2.0]),
        "denominator": torch.tensor(4.0),
        "coefficient": torch.tensor(0.1),
        "mask": torch.ones(ROWS, WIDTH, dtype=torch.bool),
    }
    if not full:
        found["mask"][:, -2:] = False
    if packed:
        owner = torch.where(found.pop("mask"), torch.arange(ROWS)[:, None], -1).reshape(-1)
        flat = {name: found[name].reshape(-1) for name in ("tokens", "logp", "old_logp", "ref_logp")}
        found |= {**flat, "hidden": found["hidden"].reshape(-1, STATES), "mask": owner}
    for name in ("hidden", "lm_head", "bias", "logp"):
        found[name].requires_grad_()
    return found


def layout_of(x: Arrays) -> Any:
    return Padded(x["mask"]) if x["mask"].dtype == torch.bool else Packed(x["mask"], ROWS)


def policy(x: Arrays) -> Any:
    return gspo_torch.policy_loss(GSPO, x["logp"], x["old_logp"], x["advantage"], layout_of(x), denominator=x["denominator"])


def penalty(x: Arrays) -> Any:
    named = {"reduction": SequenceMean(), "old_logp": x["old_logp"], "denominator": x["denominator"]}
    return gspo_torch.kl_penalty(TokenKL(), x["logp"], x["ref_logp"], layout_of(x), **named)


def scored(x: Arrays) -> Any:
    return gspo_torch.token_scores(
        x["hidden"], x["lm_head"], x["tokens"], layout=layout_of(x), bias=x["bias"], entropy_gradient=True
    )


def on_states(x: Arrays, **options: Any) -> Any:
    return gspo_torch.linear_policy_loss(
        GSPO, x["hidden"], x["lm_head"], x["tokens"], x["old_logp"], x["advantage"], layout_of(x),
        denominator=x["denominator"], bias=x["bias"], return_logp=True, **options,
    )  # fmt: skip


def with_terms(x: Arrays, **options: Any) -> Any:
    return on_states(x, kl=KLTerm(TokenKL(), x["ref_logp"], x["coefficient"]), entropy_bonus=x["coefficient"], **options)


FUNCTIONS: dict[str, Callable[[Arrays], Any]] = {
    "policy_loss": policy,
    "kl_penalty": penalty,
    "token_scores": scored,
    "two-pass": lambda x: on_states(x, budget_bytes=0),
    "aligned": lambda x: on_states(x, budget_bytes=2**20),
    "static": lambda x: on_states(x, static=True),
    "two-pass with terms": lambda x: with_terms(x, budget_bytes=0),
    "static with terms": lambda x: with_terms(x, static=True),
}


def gradients(x: Arrays, result: Any) -> list[Tensor | None]:
    leaves = [leaf for leaf in x.values() if leaf.requires_grad]
    value = result.value if hasattr(result, "value") else result.logp.sum() + (0.1 * result.entropy).sum()
    return list(torch.autograd.grad(value, leaves, allow_unused=True))


def spoiled(x: Tensor) -> None:
    """In place, as a buffer's next batch would do it."""
    with torch.no_grad():
        x.copy_(torch.flip(x, [0]) if x.dtype == torch.int64 else ~x if x.dtype == torch.bool else 2 * x + 1)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("full", [False, True], ids=["masked", "full"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_changed_input_or_result_changes_no_gradient_in_silence(
    name: str, full: bool, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gspo_torch.lm_head.schemes.LEAST_CHUNK", 1)
    expected = gradients(x := arrays(full, packed), FUNCTIONS[name](x))
    assert any(g is not None and bool(g.any()) for g in expected), "there is a gradient to be spoiled"
    refused = set()
    for changed in [*x, "logp_grad", "log_ratio", "logp of the result"]:
        x = arrays(full, packed)
        result = FUNCTIONS[name](x)
        at = x.get(changed, getattr(result, changed.split()[0], None))
        if at is None or (changed not in x and at.requires_grad):
            continue
        spoiled(at)
        try:
            found = gradients(x, result)
        except RuntimeError as error:
            if "modified by an inplace operation" not in str(error):
                raise
            refused.add(changed)
            continue
        for mine, theirs in zip(found, expected, strict=True):
            assert mine is theirs is None or torch.equal(mine, theirs), f"{changed} was changed: another gradient"
    assert refused, "what backward reads again is among what is changed"
