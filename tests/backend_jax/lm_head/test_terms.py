"""gspo_jax.linear_policy_loss with a KL term and an entropy bonus: exact in value, gradient and Hessian-vector product."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import gspo_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from gspo_jax import KLTerm
from gspo_jax.lm_head import linear, schemes
from support.budgets import assert_within
from support.jax_programs.linear_cases import arguments, array, loss_of, ours, precision, ring_of, small_pieces
from support.lm_head.agreement import assert_in_budget, is_clear_of_kinks
from support.lm_head.cases import Problem, from_logits, log_softmax_of, make, packed, with_kl

from gspo_core import GSPO_TOKEN, Padded, PerToken, TokenKL, kl_penalty, policy_loss
from gspo_core.kl import K2, K3, Capped, KLEstimator, SequenceKL

pytestmark = pytest.mark.slow

V = 11
BONUS = {"entropy_bonus": 0.2}
ALIGNED = ring_of(8, V)


@pytest.fixture(autouse=True)
def _small() -> Iterator[None]:
    """Several chunks and blocks in every problem."""
    with small_pieces():
        yield


PROBLEMS: dict[str, Problem] = {
    "K3": with_kl(make(), K3()),
    "TokenKL, interleaved": with_kl(packed(make(), 1), TokenKL()),
    "TokenKL, capped": with_kl(make(), Capped(TokenKL(), 0.1)),
    "SequenceKL": with_kl(make(options={"denominator": 5.0}), SequenceKL()),
    "on policy": with_kl(make(options={"on_policy": True, "temperature": 0.7}), SequenceKL()),
    "token advantages": with_kl(
        make(objective=GSPO_TOKEN, advantage=PerToken(torch.linspace(-1, 1, 25).double().reshape(5, 5))), K2()
    ),
    "no advantages": with_kl(make(advantage=torch.zeros(5).double()), K3()),
    "no tokens": with_kl(make(lengths=(0, 0)), K3()),
    "one token": with_kl(make(lengths=(1,), bias=None), K3()),
}


def with_bonus(problem: Problem, **more: Any) -> Problem:
    """With an entropy bonus, and whatever else."""
    return replace(problem, options={**problem.options, **BONUS, **more})


WITH_BONUS: dict[str, Problem] = {
    "bonus alone": with_bonus(make()),
    "interleaved": with_bonus(packed(make(), 1)),
    "cap and temperature": with_bonus(make(), soft_cap=4.0, temperature=0.7),
    "one column": with_bonus(make(vocabulary=1)),
    **{f"{name}, bonus": with_bonus(problem) for name, problem in PROBLEMS.items()},
}
BY_TURNS = [*list(WITH_BONUS)[:4], *(name if i % 2 else f"{name}, bonus" for i, name in enumerate(PROBLEMS))]
"""Every problem once, with a bonus or without: a program costs a second or two to compile."""


@pytest.mark.parametrize("name", BY_TURNS)
def test_values_and_gradients_are_those_of_full_logits(name: str) -> None:
    """Two-pass; value, weight, log-probs, and gradients for hidden, lm_head and bias."""
    problem = {**PROBLEMS, **WITH_BONUS}[name]
    assert_in_budget(problem, ours(problem, jit=True, budget_bytes=0, return_logp=True), from_logits(problem))


@pytest.mark.parametrize("name", ["SequenceKL", "on policy", "no advantages"])
def test_a_kl_term_goes_the_aligned_way(name: str) -> None:
    """SequenceKL off and on policy, and K3. The ring of six tokens ends inside the second sequence."""
    problem = PROBLEMS[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schemes, "flat_scores", lambda *_: pytest.fail("the loss without a gradient was computed"))
        answer = ours(problem, jit=True, return_logp=True, **ring_of(6, V))
    assert_in_budget(problem, answer, from_logits(problem))


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_errors_are_within_the_budget_of_full_logits(dtype: torch.dtype, aligned: bool) -> None:
    """The problem with the largest log ratios of its terms: aligned, and two-pass with a bonus."""
    problem = PROBLEMS["TokenKL, interleaved"].to(dtype)
    assert is_clear_of_kinks(problem)
    sums = 4 * problem.lm_head.numel() * (dtype.itemsize == 2)
    budget = sums + ring_of(8, V, item=4)["budget_bytes"] if aligned else 0
    problem = problem if aligned else with_bonus(problem)
    assert_in_budget(problem, ours(problem, jit=True, budget_bytes=budget), from_logits(problem))


def test_the_problems_are_not_vacuous() -> None:
    """Each term moves every gradient by more than 1e-3 of it, and the policy loss alone is still in it."""
    for name in ("K3", "TokenKL, interleaved", "SequenceKL", "on policy"):
        problem = WITH_BONUS[f"{name}, bonus"]
        whole = from_logits(problem).gradients
        for option in ("kl", "entropy_bonus"):
            fewer = from_logits(replace(problem, options={k: v for k, v in problem.options.items() if k != option})).gradients
            assert all((fewer[key] - g).abs().max() > 1e-3 * g.abs().max() for key, g in whole.items())


def test_an_entropy_bonus_goes_two_pass() -> None:
    """Whatever the budget is: traced alone, the aligned scheme is not met. Without the bonus it is."""

    def traced(problem: Problem) -> None:
        with precision(problem):
            jax.eval_shape(lambda *xs: loss_of(problem, *xs, **ALIGNED).value, *arguments(problem))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "aligned_loss", lambda *_: pytest.fail("the aligned scheme was taken"))
        traced(WITH_BONUS["K3, bonus"])
        with pytest.raises(pytest.fail.Exception):
            traced(PROBLEMS["K3"])


@pytest.mark.parametrize("options", [{"budget_bytes": 0}, ALIGNED], ids=["two-pass", "aligned"])
def test_the_parts_of_the_loss_are_reported(options: dict[str, int]) -> None:
    """Entropies, the KL estimate and the policy loss alone are those of full logits; without terms they are None."""
    problem = PROBLEMS["TokenKL, interleaved"]
    bonus = BONUS if options["budget_bytes"] == 0 else {}
    layout, kl = problem.layout, problem.options["kl"]
    log_p, logp = (x.detach() for x in log_softmax_of(problem, torch.float64, {}))
    policy = policy_loss(problem.objective, logp, problem.old_logp, problem.advantage, layout)
    term = kl_penalty(TokenKL(), logp, kl.ref_logp, layout, reduction=problem.objective.reduction, old_logp=problem.old_logp)
    with precision(problem):
        loss = loss_of(problem, *arguments(problem), **options, **bonus)
        plain = gspo_jax.linear_policy_loss(
            problem.objective, **{k: v for group in arguments(problem) for k, v in group.items() if k != "kl"}, **options
        )
    assert loss.kl is not None
    assert loss.policy is not None
    assert_within(loss.kl, term.value, 1e-14)
    assert_within(loss.policy.value, policy.value, 1e-14)
    assert_within(loss.policy.logp_grad, policy.logp_grad, 1e-14)
    assert_within(loss.logp_grad, policy.logp_grad + 0.3 * term.logp_grad, 1e-14)
    assert loss.logp is None
    if bonus:
        entropy = torch.where(layout.valid, torch.special.entr(log_p.exp()).sum(-1), 0.0)
        assert loss.entropy is not None
        assert_within(loss.entropy, entropy, 1e-14)
        assert not np.any(np.asarray(loss.entropy)[~layout.valid.numpy()])
    else:
        assert loss.entropy is None
    assert (plain.entropy, plain.kl, plain.policy) == (None, None, None)


def test_reported_parts_carry_no_gradient() -> None:
    problem = WITH_BONUS["K3, bonus"].to(torch.float32)
    parameters, rest = arguments(problem)

    def read(head: Any) -> Any:
        loss = loss_of(problem, {**parameters, "lm_head": head}, rest, budget_bytes=0)
        assert loss.policy is not None
        return jnp.sum(loss.entropy) + loss.kl + loss.policy.value + jnp.sum(loss.logp_grad)

    value, gradient = jax.jit(jax.value_and_grad(read))(parameters["lm_head"])
    assert value != 0
    assert not np.any(gradient)


def naive(problem: Problem, rest: dict[str, Any], hidden: Any, head: Any) -> Any:
    """The loss from all logits in plain JAX, its terms written out: means over sequences of means over tokens."""
    mask, kl, bonus = rest["layout"].mask, rest.get("kl"), problem.options.get("entropy_bonus", 0.0)
    log_p = jax.nn.log_softmax(jnp.einsum("nth,vh->ntv", jnp.where(mask[..., None], hidden, 0.0), head))
    logp = jnp.take_along_axis(log_p, jnp.where(mask, rest["tokens"], 0)[..., None], -1)[..., 0]
    value = gspo_jax.policy_loss(problem.objective, logp, rest["old_logp"], rest["advantage"], rest["layout"]).value
    tokens = mask.astype(logp.dtype)
    lengths = jnp.sum(tokens, axis=1, keepdims=True)
    share = tokens / jnp.maximum(lengths, 1.0) / jnp.sum(jnp.where(lengths > 0, 1.0, 0.0))
    estimate = jnp.zeros_like(logp)
    if kl is not None:
        x = jnp.where(mask, kl.ref_logp, 0.0) - logp
        estimate = jnp.exp(x) - 1.0 - x if isinstance(kl.estimator, K3) else x * x / 2
        if isinstance(kl.estimator, TokenKL):
            estimate = jnp.exp(logp - jnp.where(mask, rest["old_logp"], 0.0)) * (jnp.exp(x) - 1.0 - x)
    beta = 0.0 if kl is None else kl.coefficient
    entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
    return value + jnp.sum(share * (beta * estimate - bonus * entropy))


def hessian_vector_product(f: Any, *at: Any) -> tuple[Any, Any]:
    """(gradients, their change in a direction of cosines): forward over reverse."""
    direction = tuple(jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape) for x in at)
    return jax.jit(lambda: jax.jvp(jax.grad(f, argnums=tuple(range(len(at)))), at, direction))()  # type: ignore[no-any-return]  # a pair


@pytest.mark.parametrize(
    ("estimator", "options"),
    [(K3(), {"budget_bytes": 0, **BONUS}), (TokenKL(), ALIGNED)],
    ids=["K3, bonus", "TokenKL aligned"],
)
def test_hessian_vector_products_are_those_of_full_logits(estimator: KLEstimator, options: dict[str, Any]) -> None:
    options = dict(options)
    problem = make(drift=1e-5, bias=None, options={k: v for k, v in options.items() if k != "budget_bytes"})
    problem = with_kl(problem, estimator)
    with jax.enable_x64(True):
        parameters, rest = arguments(problem)
        at = (jnp.where(rest["layout"].mask[..., None], parameters["hidden"], 0.0), parameters["lm_head"])

        def mine(hidden: Any, head: Any) -> Any:
            return loss_of(problem, {"hidden": hidden, "lm_head": head, "bias": None}, rest, **options).value

        found = hessian_vector_product(mine, *at)
        expected = hessian_vector_product(lambda *xs: naive(problem, rest, *xs), *at)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert_within(a, b, 1e-12)
            assert np.abs(b).max() > 1e-3


def test_a_weight_of_zero_that_is_not_constant_counts_in_a_hessian_vector_product() -> None:
    """No advantages, and a reference that agrees exactly: the gradient is 0, its derivative that of the KL term."""
    problem = make(advantage=torch.zeros(5).double(), bias=None)
    problem = replace(problem, lm_head=torch.zeros(V, 6, dtype=torch.float64, requires_grad=True))
    even = torch.full(problem.tokens.shape, -np.log(float(V)), dtype=torch.float64)
    problem = replace(problem, old_logp=even, options={"kl": KLTerm(K3(), even, 0.3)})
    with jax.enable_x64(True):
        parameters, rest = arguments(problem)
        clean = jnp.where(rest["layout"].mask[..., None], parameters["hidden"], 0.0)

        def mine(head: Any, **budget: int) -> Any:
            return loss_of(problem, {"hidden": clean, "lm_head": head, "bias": None}, rest, **budget).value

        head = parameters["lm_head"]
        _, (expected,) = hessian_vector_product(lambda w: naive(problem, rest, clean, w), head)
        assert np.abs(expected).max() > 1e-3
        for budget in ({"budget_bytes": 0}, ALIGNED):
            (gradient,), (found,) = hessian_vector_product(partial(mine, **budget), head)
            assert not np.any(gradient), budget
            assert_within(found, expected, 1e-12)


@pytest.mark.parametrize(
    ("problem", "budget", "way"),
    [("K3, bonus", {"budget_bytes": 0}, "scan"), ("K3", ALIGNED, "vmap")],
    ids=["two-pass, scan", "aligned, vmap"],
)
def test_micro_batches_under_scan_and_vmap_add_up_to_the_whole(problem: str, budget: dict[str, int], way: str) -> None:
    """Two halves of four sequences with the whole's denominator; the KL term itself is cut in two, a pytree of arrays."""
    whole = with_kl(make(lengths=(3, 5, 4, 1), options={"denominator": 4.0, **(BONUS if "bonus" in problem else {})}), K3())
    truth = from_logits(whole)
    with jax.enable_x64(True):
        parameters, rest = arguments(whole)
        mask = rest.pop("layout").mask
        halves = {"hidden": parameters["hidden"], "mask": mask, **rest}
        parts = jax.tree.map(
            lambda x: (
                x.reshape(2, 2, *x.shape[1:]) if np.ndim(x) else jnp.full(2, x)
            ),  # the KL term's coefficient is one number
            halves,
        )

        def part(head: Any, x: dict[str, Any]) -> Any:
            others = {"layout": Padded(x["mask"]), **{k: x[k] for k in rest}}
            states = {"hidden": x["hidden"], "lm_head": head, "bias": parameters["bias"]}
            return loss_of(whole, states, others, **budget).value

        def scanned(head: Any) -> Any:
            return jax.lax.scan(lambda total, x: (total + jax.checkpoint(part)(head, x), None), jnp.zeros(()), parts)[0]

        def mapped(head: Any) -> Any:
            return jnp.sum(jax.vmap(part, in_axes=(None, 0))(head, parts))

        summed = scanned if way == "scan" else mapped
        value, gradient = jax.jit(jax.value_and_grad(summed))(parameters["lm_head"])
        assert_within(value, truth.value, 1e-13)
        assert_within(gradient, truth.gradients["lm_head"], 1e-13)


def test_a_slope_that_is_no_derivative_is_the_gradient() -> None:
    """An estimator of one's own gives value and slope, and the slope is what moves the policy, as in PyTorch."""

    class Halved(K2):
        """x²/2, of which half the slope is used."""

        def __call__(self, xp: Any, x: Any, d: Any) -> Any:
            """(x²/2, −x/2)."""
            found = super().__call__(xp, x, d)
            return found._replace(slope=found.slope / 2)

    problem = with_kl(make(), Halved())
    assert_in_budget(problem, ours(problem, jit=True, budget_bytes=0), from_logits(problem))


def test_a_float64_reference_widens_the_loss_and_not_the_log_probs() -> None:
    problem = PROBLEMS["K3"].to(torch.float32)
    wide = replace(problem.options["kl"], ref_logp=problem.options["kl"].ref_logp.double())
    with jax.enable_x64(True):
        parameters, rest = arguments(problem)
        loss = loss_of(problem, parameters, {**rest, "kl": replace(wide, ref_logp=array(wide.ref_logp))}, return_logp=True)
        assert loss.value.dtype == jnp.float64
        assert loss.logp is not None
        assert loss.logp.dtype == jnp.float32
