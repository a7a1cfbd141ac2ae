"""gspo_torch differentiates turn-level losses: first and second derivatives, vmap over masks and turns too, and compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gspo_torch
import pytest
import torch
from torch import Tensor

from gspo_core import Clip, Objective, Packed, Padded, PerToken, Turns, sharded
from gspo_core.layouts import Restricted
from gspo_core.objectives import Turn, TurnMean, TurnToken

LOW, HIGH, TURNS = 0.03, 0.05, 3
FORMS = pytest.mark.parametrize("ratio", [Turn(), TurnToken()], ids=["Turn", "TurnToken"])


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(logp, old_logp, token advantages, mask, turn ids): [5, 6], ragged, an empty row, strays, poison, some turns clipped."""
    generator = torch.Generator().manual_seed(5)
    logp, noise, advantage = (torch.randn(5, 6, generator=generator, dtype=torch.float64) for _ in range(3))
    mask = torch.rand(5, 6, generator=generator) > 0.25
    mask[3] = False
    ids = torch.randint(-1, TURNS, (5, 6), generator=generator)
    old = torch.where(mask, logp + 0.08 * noise, torch.nan)
    return logp, old, advantage, mask, ids


def in_turns(mask: Tensor, ids: Tensor) -> Tensor:
    """[N, T, K] whose token it is."""
    return (ids[..., None] == torch.arange(TURNS)) & mask[..., None]


def by_hand(ratio: Any, logp: Tensor) -> Tensor:
    """The paper's lines in torch, with detach where it says sg, one-hot sums over turns, and torch's own min and clamp."""
    _, old, advantage, mask, ids = batch()
    mine = in_turns(mask, ids).double()
    d = torch.where(mask, logp - torch.where(mask, old, 0.0), 0.0)
    length = mine.sum(1)
    log_s = (d[..., None] * mine).sum(1) / length.clamp(min=1)
    of_turn = (length > 0).double() / ((length > 0).sum(1, keepdim=True).clamp(min=1) * (length > 0).any(1).sum())
    if isinstance(ratio, TurnToken):
        log_s = (mine * log_s[:, None].detach()).sum(-1) + torch.where(mask, logp - logp.detach(), 0.0)
        of_turn, advantages = (mine * (of_turn / length.clamp(min=1))[:, None]).sum(-1), advantage
    else:
        advantages = advantage[:, :TURNS]
    s = log_s.exp()
    gain = torch.minimum(s * advantages, s.clamp(1 - LOW, 1 + HIGH) * advantages)
    return -(gain * of_turn).sum()


Loss = Callable[[Tensor], Tensor]


def ours(ratio: Any, name: str) -> Loss:
    """The same loss through `gspo_torch`, in one of the layouts."""
    _, old, advantage, mask, ids = batch()
    objective = Objective(ratio, Clip(LOW, HIGH), TurnMean())
    flat = (lambda x: x.reshape(-1)) if name == "packed" else (lambda x: x)
    padded = Padded(mask)
    rows = torch.where(mask, torch.arange(5)[:, None], -1).reshape(-1)
    layout: Any = {
        "padded": lambda: Turns(padded, ids, TURNS),
        "packed": lambda: Turns(Packed(rows, 5), ids.reshape(-1), TURNS),
        "sharded outside": lambda: sharded(Turns(padded, ids, TURNS), lambda x: x),
        "sharded inside": lambda: Turns(sharded(padded, lambda x: x), ids, TURNS),
        "restricted": lambda: Restricted(Turns(Padded(torch.ones_like(mask)), ids, TURNS), mask),
    }[name]()
    given = PerToken(flat(advantage)) if ratio.per_token else advantage[:, :TURNS]
    return lambda x: gspo_torch.policy_loss(objective, flat(x), flat(old), given, layout).value


LAYOUTS = ["padded", "packed", "sharded outside", "sharded inside", "restricted"]


@FORMS
@pytest.mark.parametrize("name", LAYOUTS)
def test_value_gradient_and_hessian_are_the_papers(ratio: Any, name: str) -> None:
    logp = batch()[0].requires_grad_()
    values = [f(logp) for f in (ours(ratio, name), lambda x: by_hand(ratio, x))]
    assert torch.allclose(*values, rtol=1e-13, atol=0)
    first = [torch.autograd.grad(v, logp, create_graph=True)[0] for v in values]
    assert torch.allclose(*first, rtol=1e-12, atol=1e-16)
    live = in_turns(*batch()[3:]).any(-1)
    assert (first[0][live] == 0).any(), "nothing is clipped"
    assert (first[0][live] != 0).sum() > 5
    direction = torch.linspace(-1, 1, logp.numel(), dtype=torch.float64).reshape(logp.shape)
    second = [torch.autograd.grad((g * direction).sum(), logp)[0] for g in first]
    assert second[0].abs().max() > 1e-3
    assert torch.allclose(*second, rtol=1e-11, atol=1e-15)


@FORMS
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_loss_can_be_mapped_over_a_batch(ratio: Any, name: str) -> None:
    f, logp = ours(ratio, name), batch()[0]
    many = torch.stack([logp, logp + 0.01, logp - 0.01])
    mapped = torch.func.vmap(torch.func.grad(f))(many)
    single = torch.stack([torch.func.grad(f)(x) for x in many])
    assert torch.allclose(mapped, single, rtol=1e-12, atol=0)


@FORMS
@pytest.mark.parametrize("inside", [True, False], ids=["Turns(sharded)", "sharded(Turns)"])
def test_masks_and_turns_can_be_mapped_too(ratio: Any, inside: bool) -> None:
    """They stand two layouts deep: every tensor is an input of the autograd rule of its own."""
    logp, old, advantage, mask, ids = batch()
    old = torch.where(mask, old, 0.0)
    objective = Objective(ratio, Clip(LOW, HIGH), TurnMean())

    def gradient(m: Tensor, k: Tensor) -> Tensor:
        def value(x: Tensor) -> Tensor:
            if inside:
                layout: Any = Turns(sharded(Padded(m), lambda y: y), k, TURNS)
            else:
                layout = sharded(Turns(Padded(m), k, TURNS), lambda y: y)
            given = PerToken(advantage) if ratio.per_token else advantage[:, :TURNS]
            return gspo_torch.policy_loss(objective, x, old, given, layout).value

        return torch.func.grad(value)(logp)

    masks, turns = torch.stack([mask, mask.flip(1)]), torch.stack([ids, ids.flip(0)])
    mapped = torch.func.vmap(gradient)(masks, turns)
    single = torch.stack([gradient(m, k) for m, k in zip(masks, turns, strict=True)])
    assert torch.allclose(mapped, single, rtol=1e-12, atol=0)
    assert (mapped[0] != mapped[1]).any()


@FORMS
@pytest.mark.parametrize("budget", [0, 2**20], ids=["two-pass", "aligned"])
@pytest.mark.parametrize("name", ["padded", "sharded outside", "sharded inside", "restricted"])
@pytest.mark.parametrize("width", [6, TURNS])
def test_the_fused_head_takes_turns(ratio: Any, budget: int, name: str, width: int) -> None:
    """As many slots as turns, too: [N, K] is never taken for [N, T]. A dialogue whose advantages are all 0 is left out."""
    logp, old, advantage, mask, ids = (x[:, :width] for x in batch())
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(5, width, 4, generator=generator, dtype=torch.float64)
    head = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    tokens = torch.randint(7, (5, width), generator=generator)
    own = gspo_torch.token_logp(hidden, head, tokens)
    old = torch.where(mask, own.double() + 0.05 * (old - logp), torch.nan).to(own.dtype)
    advantage = advantage * torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0])[:, None]
    layout: Any = {
        "padded": lambda: Turns(Padded(mask), ids, TURNS),
        "sharded outside": lambda: sharded(Turns(Padded(mask), ids, TURNS), lambda x: x),
        "sharded inside": lambda: Turns(sharded(Padded(mask), lambda x: x), ids, TURNS),
        "restricted": lambda: Restricted(Turns(Padded(torch.ones_like(mask)), ids, TURNS), mask),
    }[name]()
    given = PerToken(advantage) if ratio.per_token else advantage[:, :TURNS]
    objective, gradients = Objective(ratio, Clip(LOW, HIGH), TurnMean()), []
    for fused in (True, False):
        h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        if fused:
            loss: Any = gspo_torch.linear_policy_loss(objective, h, w, tokens, old, given, layout, budget_bytes=budget)
        else:
            loss = gspo_torch.policy_loss(objective, gspo_torch.token_logp(h, w, tokens), old, given, layout)
        loss.value.backward()
        gradients.append((loss.value, h.grad, w.grad))
    for one, two in zip(*gradients, strict=True):
        assert torch.allclose(one, two, rtol=1e-9, atol=1e-12)
        assert one.abs().max() > 1e-3


@pytest.mark.slow
# Torch deprecates parts of itself, which Dynamo uses.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("ratio", "name", "backend"),
    [(Turn(), "packed", "aot_eager"), (TurnToken(), "restricted", "eager")],
    ids=str,
)
def test_a_loss_compiles_without_a_break(ratio: Any, name: str, backend: str) -> None:
    """Traced, and the packed one lowered too (test_compile.py says why not all). Restricted holds a padded layout."""
    f = ours(ratio, name)
    compiled = torch.compile(f, fullgraph=True, backend=backend)
    logp = batch()[0].requires_grad_()
    gradients = [torch.autograd.grad(g(logp), logp)[0] for g in (f, compiled)]
    assert torch.allclose(*gradients, rtol=1e-12, atol=0)
