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
from gspo_jax.lm_head.runs import LONGEST
from support.budgets import assert_within
from support.cases import Batch
from support.family import MEMBERS, Member, by_member
from support.jax_programs.linear_cases import ours, ring_of, small_pieces
from support.jax_programs.losses import BATCH
from support.lm_head.agreement import assert_in_budget, is_clear_of_kinks
from support.lm_head.cases import Problem, from_logits, make, packed

from gspo_core import Packed, Padded, PerToken

pytestmark = pytest.mark.slow

V, H = 11, 6


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

        graded = jax.value_and_grad(value, argnums=(0, 1))
        # Two-pass has programs that all presets share; aligned has one of its own for each.
        graded = jax.jit(graded) if options["budget_bytes"] else graded
        return graded(array(self.hidden), jnp.asarray(self.head))

    def assert_right(self, member: Member, advantage: np.ndarray, flat: bool, **options: Any) -> None:
        """Value and gradients are the oracle's, and those of masked slots 0."""
        verdict = member.judged(self.batch, advantage)
        weight = np.asarray(verdict.weight)
        assert np.count_nonzero(weight)
        with jax.enable_x64(True):
            value, (d_hidden, d_head) = self.ours(member, advantage, flat, **options)
        theirs = self.gradients(weight)
        budget = 1e-12 * max(verdict.scale, np.abs(weight).sum()) * np.abs(self.hidden).max()
        assert_within(value, verdict.value, budget)
        assert_within(np.reshape(d_hidden, theirs[0].shape), theirs[0], budget)
        assert_within(d_head, theirs[1], budget)
        assert not np.any(np.reshape(d_hidden, theirs[0].shape)[~self.batch.mask])


@by_member
def test_every_preset_is_its_scalar_oracles(member: Member) -> None:
    """Value and both gradients, from the oracle's weights and a softmax written out; both kinds of advantages; two-pass.

    Padded and packed by turns, the other way round than the aligned way.
    """
    case, flat = FromTheHead(BATCH), MEMBERS.index(member) % 2 == 1
    advantages = [case.batch.advantage] + ([case.batch.token_advantage] if member.per_token else [])
    for advantage in advantages:
        case.assert_right(member, advantage, flat, budget_bytes=0)


THE_ALIGNED_WAY = [m for m in MEMBERS if m.name in ("GSPO_TOKEN", "LUSPO", "GMPO", "FSPO", "VESPO", "DEEPSEEK_V3_2", "DPPO")]


@pytest.mark.parametrize("member", THE_ALIGNED_WAY, ids=lambda member: member.name)
def test_every_ratio_reduction_and_gate_is_its_scalar_oracles_the_aligned_way(member: Member) -> None:
    """Of a surrogate the scheme sees nothing. The ring holds four tokens: sequences of five and six are too long for it."""
    case, flat = FromTheHead(BATCH), MEMBERS.index(member) % 2 == 0
    case.assert_right(member, case.batch.advantage, flat, **ring_of(4, V))


@pytest.mark.parametrize("part", ["ratio", "reduction", "gate"])
def test_the_aligned_way_has_met_every_ratio_reduction_and_gate(part: str) -> None:
    kinds = [{type(getattr(member.objective, part)) for member in members} for members in (THE_ALIGNED_WAY, MEMBERS)]
    assert kinds[0] == kinds[1]


def test_the_oracles_batch_is_not_vacuous() -> None:
    verdicts = [member.judged(FromTheHead(BATCH).batch, BATCH.advantage) for member in MEMBERS]
    assert all(np.any(verdict.clipped) for verdict in verdicts[:2])
    assert (BATCH.advantage == 0).any()
    lengths = BATCH.mask.sum(1)
    assert (lengths > 4).any()
    assert ((lengths > 0) & (lengths <= 4)).any()


PROBLEMS: dict[str, Problem] = {
    "padded": make(),
    "interleaved": packed(make(), seed=1),
    "temperature, cap, bias": make(options={"temperature": 0.7, "soft_cap": 4.0}),
    "on policy": make(options={"on_policy": True, "temperature": 0.7}),
    "per token": make(objective=MEMBERS[1].objective, advantage=PerToken(torch.linspace(-1, 1, 25).double().reshape(5, 5))),
    "no tokens": make(lengths=(0, 0)),
    "one token": make(lengths=(1,), advantage=torch.ones(1).double()),
    "no sequences": make(lengths=()),
    "one column": make(vocabulary=1),
    "everything skipped": make(advantage=torch.zeros(5).double()),
    "large, no bias": make(
        lengths=(37, 22, 0, 31),
        width=33,
        vocabulary=61,
        drift=1e-3,
        bias=None,
        advantage=torch.tensor([1.0, -2.0, 0.5, 1.5]).double(),
        options={"denominator": 5.0},
    ),
}
LARGE = "large, no bias"


def checked(problem: Problem, *, jit: bool = False, **options: Any) -> None:
    """Within the budget of full logits, and not for want of a gradient."""
    assert is_clear_of_kinks(problem)
    truth = from_logits(problem)
    assert truth.weight.any()
    assert_in_budget(problem, ours(problem, jit=jit, **options), truth)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("padded", torch.float64), ("interleaved", torch.float32), ("padded", torch.bfloat16), ("interleaved", torch.float16)],
    ids=str,
)
def test_errors_are_within_the_budget_of_full_logits(name: str, dtype: torch.dtype) -> None:
    checked(PROBLEMS[name].to(dtype), jit=dtype != torch.float64, budget_bytes=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_errors_of_the_aligned_way_are_within_it(dtype: torch.dtype) -> None:
    """Low precision needs float32 sums of the head's size in its budget, and takes them. float16: test_upstream.py."""
    problem = PROBLEMS["interleaved"].to(dtype)
    sums = 4 * problem.lm_head.numel() if dtype.itemsize == 2 else 0
    checked(problem, jit=True, budget_bytes=sums + ring_of(8, V, item=4)["budget_bytes"])


@pytest.mark.parametrize("name", sorted(set(PROBLEMS) - {"padded", "interleaved", LARGE}))
def test_edges(name: str) -> None:
    """Compiled, but for those of `padded`'s shape and options, whose operations JAX has compiled one by one."""
    problem, shared = PROBLEMS[name], name in ("per token", "everything skipped")
    assert_in_budget(problem, ours(problem, jit=not shared, budget_bytes=0), from_logits(problem))


@pytest.mark.parametrize("name", ["on policy", "one token", "one column", "everything skipped"])
def test_edges_of_the_aligned_way(name: str) -> None:
    """The ring holds eight tokens."""
    problem = PROBLEMS[name]
    assert_in_budget(problem, ours(problem, jit=True, **ring_of(8, len(problem.lm_head))), from_logits(problem))


@pytest.mark.parametrize("tokens", [0, 64], ids=["two-pass", "aligned"])
def test_runs_of_every_length(tokens: int) -> None:
    """Twenty-three tiles with work: two runs of eight, then of four, two and one; and a ring of sixteen tiles."""
    problem = PROBLEMS[LARGE]
    assert int((from_logits(problem).weight != 0).sum()) == 90
    with small_pieces(longest=LONGEST):
        answer = ours(problem, jit=True, **ring_of(tokens, len(problem.lm_head)))
    assert_in_budget(problem, answer, from_logits(problem))


def test_log_probs_come_for_every_token_if_asked_for() -> None:
    problem = PROBLEMS["interleaved"]
    answer = ours(problem, jit=True, return_logp=True, **ring_of(8, V))
    assert answer.logp is not None
    assert_in_budget(problem, answer, from_logits(problem))
    assert ours(PROBLEMS["padded"], budget_bytes=0).logp is None


def test_a_frozen_head_and_frozen_states() -> None:
    problem = make()
    for name in ("hidden", "lm_head"):
        frozen = replace(problem, **{name: getattr(problem, name).detach()})
        answer = ours(frozen, budget_bytes=0)
        assert name not in answer.gradients
        assert_in_budget(frozen, answer, from_logits(frozen))
