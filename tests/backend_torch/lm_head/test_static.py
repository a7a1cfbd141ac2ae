"""static=True: nothing is read from the device, a step is one graph, and the numbers are those of the default."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gspo_torch
import pytest
import torch
from support.lm_head.cases import Problem, make, packed, small_pieces, with_kl
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gspo_core import batch_metrics
from gspo_core.kl import K3
from gspo_core.layouts import Weighted

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated"),
    pytest.mark.filterwarnings("ignore:.*autograd.function.Function.* should not be instantiated:DeprecationWarning"),
]

READS = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "equal.default", "is_nonzero")
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "temperature and cap": {"temperature": 0.7, "soft_cap": 4.0},
}


class Reads(TorchDispatchMode):
    """Notes every operation whose result, or whose result's shape, is a number of the device's."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(func) for name in READS):
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def step(problem: Problem, hidden: Tensor, head: Tensor, bias: Tensor, static: bool, **options: Any) -> tuple[Tensor, ...]:
    """(loss with some entropy, log-probs, entropies) of log-probs and a policy loss."""
    arguments = {"layout": problem.layout, "bias": bias, "static": static, **options}
    scores = gspo_torch.token_scores(hidden, head, problem.tokens, entropy_gradient=True, **arguments)
    loss = gspo_torch.policy_loss(problem.objective, scores.logp, problem.old_logp, problem.advantage, problem.layout)
    return loss.value - 0.1 * scores.entropy.sum(), scores.logp, scores.entropy


def fused(problem: Problem, hidden: Tensor, head: Tensor, bias: Tensor, static: bool, **options: Any) -> tuple[Tensor, ...]:
    """(value, log-probs, entropies, weights, policy loss) of `linear_policy_loss` with a KL term and a bonus."""
    x = (hidden, head, problem.tokens, problem.old_logp, problem.advantage, problem.layout)
    more = {"entropy_bonus": 0.2, "return_logp": True, "budget_bytes": 0, "static": static, "bias": bias}
    loss = gspo_torch.linear_policy_loss(problem.objective, *x, kl=problem.options["kl"], **more, **options)
    assert loss.policy is not None
    return loss.value, loss.logp, loss.entropy, loss.logp_grad, loss.policy.value, loss.kl


def leaves(problem: Problem) -> list[Tensor]:
    """Hidden states, head and bias; masked slots of the states are NaN, and their ids in no vocabulary."""
    return list(problem.leaves().values())


def compare(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...], x: list[Tensor]) -> None:
    """Values and gradients to 1e-13 of the largest entry: the same sums, with rows of zeros among them."""
    pairs = [*zip(mine, theirs, strict=True)]
    pairs += zip(torch.autograd.grad(mine[0], x), torch.autograd.grad(theirs[0], x), strict=True)
    for a, b in pairs:
        assert b.abs().max() > 0
        assert (a - b).abs().max() <= 1e-13 * b.abs().max()


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("seed", [None, 1], ids=["padded", "packed"])
def test_the_numbers_are_those_of_the_default(name: str, seed: int | None) -> None:
    problem = make() if seed is None else packed(make(), seed)
    x = leaves(problem)
    with small_pieces((3, 4)):
        compare(step(problem, *x, static=True, **OPTIONS[name]), step(problem, *x, static=False, **OPTIONS[name]), x)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("seed", [None, 1], ids=["padded", "packed"])
def test_a_whole_loss_is_that_of_the_default(name: str, seed: int | None) -> None:
    """With a KL term and an entropy bonus, also where rows have weights; a loss scale reaches every gradient."""
    problem = with_kl(make(), K3())
    problem = problem if seed is None else packed(problem, seed)
    x, weights = leaves(problem), torch.tensor([1.0, 2.0, 1.0, 0.0, 0.5])
    for one in (problem, replace(problem, layout=Weighted(problem.layout, weights))):
        with small_pieces((3, 4)):
            mine, theirs = (fused(one, *x, static=static, **OPTIONS[name]) for static in (True, False))
            compare((mine[0] * 65536.0, *mine[1:]), (theirs[0] * 65536.0, *theirs[1:]), x)


def test_a_loss_alone_knows_every_response() -> None:
    """The default leaves responses without an advantage out, and their log ratio is 0; value and weights are the same."""
    problem = replace(make(), advantage=torch.tensor([1.0, 0.0, 2.0, 0.0, -1.0], dtype=torch.float64))
    mine, theirs = problem.loss(static=True), problem.loss()
    assert mine.logp is mine.entropy is mine.kl is mine.policy is None
    assert theirs.log_ratio[1] == 0 != mine.log_ratio[1]
    compare((mine.value, mine.logp_grad), (theirs.value, theirs.logp_grad), leaves(problem))


@pytest.mark.parametrize("static", [True, False])
def test_nothing_is_read_from_the_device(static: bool) -> None:
    """Forward, backward and metrics; the default does read, which shows that it would be seen."""
    problem = make()
    x, with_reference = leaves(problem), with_kl(problem, K3())
    with Reads() as reads:
        value, logp, _ = step(problem, *x, static=static)
        torch.autograd.grad(value, x)
        if static:
            torch.autograd.grad(fused(with_reference, *x, static=True)[0], x)
            loss = gspo_torch.policy_loss(problem.objective, logp, problem.old_logp, problem.advantage, problem.layout)
            batch_metrics(problem.objective, loss, logp, problem.old_logp, problem.advantage, problem.layout)
    assert bool(reads.seen) == (not static)


def test_an_id_in_no_vocabulary_has_no_probability_and_no_gradient() -> None:
    """As in JAX: nothing can be raised without a look at the ids."""
    hidden, head = torch.ones(3, 4, requires_grad=True), torch.ones(5, 4)
    logp = gspo_torch.token_logp(hidden, head, torch.tensor([5, -1, 2]), static=True)
    assert logp.isinf().tolist() == [True, True, False]
    logp[2].backward()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("of", [step, fused], ids=["log-probs", "a whole loss"])
def test_torch_compile_takes_a_step_as_one_graph(of: Callable[..., tuple[Tensor, ...]]) -> None:
    problem = with_kl(make(), K3())
    x = leaves(problem)

    def whole(*parameters: Tensor) -> tuple[Tensor, ...]:
        return of(problem, *parameters, static=True, temperature=0.7, soft_cap=4.0)

    compare(torch.compile(whole, fullgraph=True, backend="aot_eager")(*x), whole(*x), x)
