"""gspo_jax.linear_policy_loss: value and gradients are those of full logits in float64, for every preset, layout and dtype."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gspo_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from budgets import assert_within
from cases import Batch
from family import MEMBERS, Member, by_member
from jax_linear_cases import ours, small_pieces
from jax_losses import BATCH
from linear_cases import Problem, assert_in_budget, from_logits, is_clear_of_kinks, make, packed

from gspo_core import Packed, Padded, PerToken

V, H = 11, 6
PIECES = pytest.mark.usefixtures("_small")


@pytest.fixture(autouse=True)
def _small() -> Any:
    """Several chunks and blocks in every problem."""
    with small_pieces():
        yield


class FromTheHead:
    """A batch whose log-probs are those of a random head; its log ratios are the batch's. float64, NumPy."""

    def __init__(self, batch: Batch) -> None:
        rng = np.random.default_rng(5)
        self.hidden, self.head = rng.normal(size=(*batch.mask.shape, H)), rng.normal(size=(V, H))
        self.tokens = rng.integers(0, V, batch.mask.shape).astype(np.int32)
        z = np.einsum("nth,vh->ntv", self.hidden, self.head)
        self.p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
        logp = np.log(np.take_along_axis(self.p, self.tokens[..., None], -1)[..., 0])
        self.batch = replace(batch, logp=logp, old_logp=logp - np.where(batch.mask, batch.logp - batch.old_logp, 0.0))

    def gradients(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of Σ weight · logp."""
        d_logits = weight[..., None] * (np.eye(V)[self.tokens] - self.p)
        return np.einsum("ntv,vh->nth", d_logits, self.head), np.einsum("ntv,nth->vh", d_logits, self.hidden)

    def ours(self, member: Member, advantage: np.ndarray, flat: bool, **options: Any) -> tuple[Any, tuple[Any, Any]]:
        """(value, gradients), masked slots poisoned."""
        mask = self.batch.mask

        def array(x: np.ndarray, poison: Any = np.nan) -> Any:
            x = np.where(mask.reshape(mask.shape + (1,) * (x.ndim - 2)), x, poison).astype(x.dtype)
            return jnp.asarray(x.reshape(-1, *x.shape[2:]) if flat else x)

        ids = np.where(mask, np.arange(len(mask))[:, None], -1).reshape(-1)
        layout = Packed(jnp.asarray(ids), len(mask)) if flat else Padded(jnp.asarray(mask))
        rest = (array(self.tokens, -7), array(self.batch.old_logp))
        adv = PerToken(array(advantage)) if advantage.ndim == 2 else jnp.asarray(advantage)

        def value(hidden: Any, head: Any) -> Any:
            return gspo_jax.linear_policy_loss(member.objective, hidden, head, *rest, adv, layout, **options).value

        return jax.value_and_grad(value, argnums=(0, 1))(array(self.hidden), jnp.asarray(self.head))


@pytest.mark.parametrize("flat", [False, True], ids=["padded", "packed"])
@by_member
def test_every_preset_is_its_scalar_oracles(member: Member, flat: bool) -> None:
    """Value and both gradients, from the oracle's weights and a softmax written out; both kinds of advantages."""
    case = FromTheHead(BATCH)
    advantages = [case.batch.advantage] + ([case.batch.token_advantage] if member.method.per_token else [])
    for advantage in advantages:
        verdict = member.judged(case.batch, advantage)
        weight = np.asarray(verdict.weight)
        assert np.count_nonzero(weight)
        with jax.enable_x64(True):
            value, (d_hidden, d_head) = case.ours(member, advantage, flat)
        theirs = case.gradients(weight)
        budget = 1e-12 * max(verdict.scale, np.abs(weight).sum()) * np.abs(case.hidden).max()
        assert_within(value, verdict.value, budget)
        assert_within(np.reshape(d_hidden, theirs[0].shape), theirs[0], budget)
        assert_within(d_head, theirs[1], budget)
        assert not np.any(np.reshape(d_hidden, theirs[0].shape)[~case.batch.mask])


def test_the_oracles_batch_is_not_vacuous() -> None:
    verdicts = [member.judged(FromTheHead(BATCH).batch, BATCH.advantage) for member in MEMBERS]
    assert all(np.any(verdict.clipped) for verdict in verdicts[:2])
    assert (BATCH.advantage == 0).any()


PROBLEMS: dict[str, Problem] = {
    "padded": make(),
    "interleaved": packed(make(), seed=1),
    "temperature, cap, bias": make(options={"temperature": 0.7, "soft_cap": 4.0}),
    "no bias": make(bias=None, options={"denominator": 5.0}),
    "on policy": make(options={"on_policy": True, "temperature": 0.7}),
    "per token": make(objective=MEMBERS[1].objective, advantage=PerToken(torch.linspace(-1, 1, 25).double().reshape(5, 5))),
    "no tokens": make(lengths=(0, 0)),
    "one token": make(lengths=(1,), advantage=torch.ones(1).double()),
    "no sequences": make(lengths=()),
    "one column": make(vocabulary=1),
    "everything skipped": make(advantage=torch.zeros(5).double()),
    "large": make(lengths=(19, 2, 0, 7), width=33, vocabulary=61),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["padded", "interleaved", "temperature, cap, bias", "on policy"])
def test_errors_are_within_the_budget_of_full_logits(name: str, dtype: torch.dtype) -> None:
    problem = PROBLEMS[name].to(dtype)
    assert is_clear_of_kinks(problem)
    truth = from_logits(problem)
    assert truth.weight.any()
    assert_in_budget(problem, ours(problem), truth)


@pytest.mark.parametrize("name", sorted(set(PROBLEMS) - {"padded", "interleaved", "temperature, cap, bias", "on policy"}))
def test_edges(name: str) -> None:
    problem = PROBLEMS[name]
    assert_in_budget(problem, ours(problem), from_logits(problem))


@pytest.mark.parametrize("name", ["padded", "interleaved"])
def test_log_probs_come_for_every_token_if_asked_for(name: str) -> None:
    problem = PROBLEMS[name]
    answer = ours(problem, return_logp=True)
    assert answer.logp is not None
    assert_in_budget(problem, answer, from_logits(problem))
    assert ours(problem).logp is None


def test_a_frozen_head_and_frozen_states() -> None:
    problem = make()
    for name in ("hidden", "lm_head"):
        frozen = replace(problem, **{name: getattr(problem, name).detach()})
        answer = ours(frozen)
        assert name not in answer.gradients
        assert_in_budget(frozen, answer, from_logits(frozen))
