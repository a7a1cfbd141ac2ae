"""Every preset is the same in a padded, a packed and a sharded layout, gates included, and under torch.compile."""

from __future__ import annotations

from dataclasses import replace

import gspo_torch
import numpy as np
import pytest
import torch
from budgets import REL64, assert_close64, assert_within
from cases import Batch, core_loss
from family import MEMBERS, Member, by_member
from libraries import NUMPY, Library

from gspo_core import Packed, Padded, policy_loss, sharded


def ragged() -> Batch:
    """Responses of 0 to 4 tokens, log ratios on both sides of every default bound."""
    rng = np.random.default_rng(7)
    d = 10.0 ** np.linspace(-4, 0.3, 10)[:, None] * rng.uniform(0.5, 1.0, (10, 4)) * rng.choice([-1, 1], (10, 1))
    mask = np.arange(4) < np.array([4, 3, 0, 2, 1, 4, 4, 3, 2, 4])[:, None]
    mask[0, 1] = False  # a hole
    advantage = rng.choice([-1.0, 1.0], 10)
    d[9], advantage[9] = [0.5, -2.0, -2.0, -2.0], -1.0  # stale and bad, with a token that GRPO alone would push
    return Batch(d - 3, np.full((10, 4), -3.0), mask, advantage, rng.normal(size=(10, 4)), 0.2, 0.2)


@by_member
def test_packed_is_padded(library: Library, member: Member) -> None:
    batch = ragged()
    rows, _ = np.nonzero(batch.mask)
    padded = core_loss(library, member.objective, batch)
    arrays = (library.array(x) for x in (batch.logp[batch.mask], batch.old_logp[batch.mask], batch.advantage))
    packed = policy_loss(member.objective, *arrays, Packed(library.array(rows), 10))
    clipped = padded.clipped[batch.mask] if member.method.per_token else padded.clipped
    assert_close64(library.numpy(packed.value), padded.value, max(1.0, abs(float(padded.value))))
    weight = padded.logp_grad[batch.mask]
    assert_within(library.numpy(packed.logp_grad), weight, 10 * REL64 * np.abs(weight))
    assert library.numpy(packed.clipped).tolist() == clipped.tolist()


@by_member
def test_two_shards_are_the_whole(member: Member) -> None:
    """Each rank holds two columns; what the other rank contributes is looked up by the order of the exchanges."""
    batch = ragged()
    whole = core_loss(NUMPY, member.objective, batch)
    exchanged: list[list[np.ndarray]] = [[], []]

    def losses() -> list:
        out = []
        for rank, columns in enumerate((slice(0, 2), slice(2, 4))):
            calls = iter(range(100))

            def total(x: np.ndarray, rank: int = rank, calls: object = calls) -> np.ndarray:
                step = next(calls)
                exchanged[rank][step:] = [x, *exchanged[rank][step + 1 :]]
                return x + (exchanged[1 - rank][step] if step < len(exchanged[1 - rank]) else np.zeros_like(x))

            layout = sharded(Padded(batch.mask[:, columns]), total)
            arrays = (batch.logp[:, columns], batch.old_logp[:, columns], batch.advantage)
            out.append(policy_loss(member.objective, *arrays, layout))
        return out

    for _ in range(8):  # until what was looked up is what is sent
        parts = losses()
    for part in parts:
        assert_close64(part.value, whole.value, max(1.0, abs(float(whole.value))))
    weight = np.concatenate([part.logp_grad for part in parts], axis=1)
    assert_within(weight, whole.logp_grad, 10 * REL64 * np.abs(whole.logp_grad))
    silent = [part.clipped for part in parts]
    if member.method.per_token:
        assert (np.concatenate(silent, axis=1) == whole.clipped).all()
    else:
        assert (silent[0] == whole.clipped).all()
        assert (silent[1] == whole.clipped).all()


# What torch says about itself while tracing; test_torch_compile has the reasons.
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.* should not be instantiated:DeprecationWarning")
@by_member
def test_compiled_is_eager(member: Member) -> None:
    batch = ragged().clean()
    logp, old, advantage, mask = (torch.tensor(x) for x in (batch.logp, batch.old_logp, batch.advantage, batch.mask))

    def value(x: torch.Tensor) -> torch.Tensor:
        return gspo_torch.policy_loss(member.objective, x, old, advantage, Padded(mask)).value

    torch._dynamo.reset()
    gradients = []
    for f in (value, torch.compile(value, fullgraph=True, backend="aot_eager")):
        x = logp.clone().requires_grad_()
        gradients.append(torch.autograd.grad(f(x), x)[0].numpy())
    assert_within(gradients[1], gradients[0], REL64 * np.abs(gradients[0]))
    assert (gradients[0] != 0).any()


def test_the_batch_has_silent_and_live_units_behind_every_gate() -> None:
    for member in MEMBERS:
        if member.objective.gate is not None:
            loss = core_loss(NUMPY, member.objective, ragged())
            free = core_loss(NUMPY, replace(member.objective, gate=None), ragged())
            assert (loss.logp_grad != 0).any()
            assert (loss.logp_grad != free.logp_grad).any(), member.name
