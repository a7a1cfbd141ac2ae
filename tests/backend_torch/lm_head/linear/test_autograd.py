"""linear_policy_loss among PyTorch's transforms: frozen parameters, tied weights, repeated and second backward, autocast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

import gspo_torch
import pytest
import torch
from gspo_torch.lm_head import blocks, exponentials, products, two_pass
from support.lm_head.agreement import assert_in_budget
from support.lm_head.cases import PARAMETERS, Problem, from_logits, make, ours
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gspo_core import GSPO, Padded

BUDGETS = pytest.mark.parametrize("bytes_", [0, 2**20], ids=["two-pass", "aligned"])
SUBSETS = [set(names) for size in (1, 2, 3) for names in combinations(PARAMETERS, size)]


@pytest.fixture(autouse=True)
def _chunks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gspo_torch.lm_head.schemes.LEAST_CHUNK", 1)


def only(problem: Problem, wanted: set[str]) -> Problem:
    """All other parameters frozen."""
    return replace(problem, **{name: getattr(problem, name).detach().requires_grad_(name in wanted) for name in PARAMETERS})


@BUDGETS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("wanted", SUBSETS, ids=lambda s: "+".join(sorted(s)))
def test_gradients_only_where_asked(wanted: set[str], dtype: torch.dtype, bytes_: int) -> None:
    """A frozen head costs no gradient of the head and changes no other."""
    problem = make().to(dtype)
    everything = ours(problem, budget_bytes=bytes_).gradients
    some = only(problem, wanted)
    some.loss(budget_bytes=bytes_).value.backward()
    for name in PARAMETERS:
        gradient = getattr(some, name).grad
        assert (gradient is not None) == (name in wanted)
        assert gradient is None or torch.equal(gradient, everything[name])


@BUDGETS
@pytest.mark.parametrize("frozen", ["all", "no_grad", "inference"])
def test_without_gradients_there_is_no_graph_and_the_same_loss(frozen: str, bytes_: int) -> None:
    problem = make()
    wanted = problem.loss(budget_bytes=0)
    mode = {"all": torch.enable_grad(), "no_grad": torch.no_grad(), "inference": torch.inference_mode()}[frozen]
    with mode:
        loss = (only(problem, set()) if frozen == "all" else problem).loss(budget_bytes=bytes_)
    assert not loss.value.requires_grad
    assert torch.equal(loss.value, wanted.value)
    assert torch.equal(loss.logp_grad, wanted.logp_grad)


def test_without_gradients_nothing_is_prepared_for_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """The aligned way would compute gradients that nobody takes."""
    monkeypatch.setattr("gspo_torch.lm_head.aligned.run", lambda *_: pytest.fail("gradients were computed"))
    problem = make()
    with torch.no_grad():
        problem.loss()
    only(problem, set()).loss()
    with pytest.raises(pytest.fail.Exception):
        problem.loss()


@BUDGETS
def test_only_the_value_is_differentiable(bytes_: int) -> None:
    """Anything else that required a gradient would silently give none."""
    loss = make().loss(return_logp=True, budget_bytes=bytes_, **({} if bytes_ else {"entropy_bonus": 0.1}))
    tensors = {name: x for name, x in loss._asdict().items() if isinstance(x, Tensor)}
    assert {name for name, x in tensors.items() if x.requires_grad} == {"value"}
    assert {"logp", "logp_grad", "log_ratio", "clipped"} <= set(tensors)
    assert bytes_ or "entropy" in tensors


@BUDGETS
def test_the_upstream_gradient_scales_every_gradient(bytes_: int) -> None:
    problem = make()
    whole = ours(problem, budget_bytes=bytes_).gradients
    (problem.loss(budget_bytes=bytes_).value * -0.5).backward()
    assert all(torch.equal(x.grad, -0.5 * whole[name]) for name, x in problem.leaves().items())


@BUDGETS
def test_gradients_add_up_over_losses(bytes_: int) -> None:
    """Accumulation: two losses of half the denominator each."""
    problem = make()
    whole = ours(problem, budget_bytes=bytes_, denominator=3.0).gradients
    for _ in range(2):
        problem.loss(budget_bytes=bytes_, denominator=6.0).value.backward()
    assert all((x.grad - whole[name]).abs().max() <= 1e-15 for name, x in problem.leaves().items())


def test_a_second_backward_through_the_same_loss_works_in_two_passes() -> None:
    problem = make()
    loss = problem.loss(budget_bytes=0)
    first = torch.autograd.grad(loss.value, list(problem.leaves().values()), retain_graph=True)
    second = torch.autograd.grad(loss.value, list(problem.leaves().values()))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_second_backward_through_the_same_loss_is_refused_by_the_aligned_way() -> None:
    """It gave its gradients away; the sentence says what to do. The first one's gradients stay."""
    problem = make()
    loss = problem.loss()
    loss.value.backward(retain_graph=True)
    kept = problem.lm_head.grad.clone()
    with pytest.raises(RuntimeError, match=r"^linear_policy_loss: the aligned scheme .*pass budget_bytes=0$"):
        loss.value.backward()
    assert torch.equal(problem.lm_head.grad, kept)


@BUDGETS
@pytest.mark.parametrize("name", PARAMETERS)
def test_a_second_derivative_is_refused(name: str, bytes_: int) -> None:
    problem = make()
    (gradient,) = torch.autograd.grad(problem.loss(budget_bytes=bytes_).value, problem.leaves()[name], create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        gradient.square().sum().backward()


@BUDGETS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_changes_no_bit(dtype: torch.dtype, bytes_: int) -> None:
    problem = make().to(dtype)
    plain = ours(problem, budget_bytes=bytes_, return_logp=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = ours(problem, budget_bytes=bytes_, return_logp=True)
    assert torch.equal(cast.value, plain.value)
    assert torch.equal(cast.logp, plain.logp)
    assert all(torch.equal(g, plain.gradients[name]) for name, g in cast.gradients.items())


@BUDGETS
def test_products_are_out_of_autocasts_reach(bytes_: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU autocast happens to know none of the operators used: the test above would pass without this."""
    inside: list[bool] = []

    def watched(*args: Any, **options: Any) -> None:
        inside.append(torch.is_autocast_enabled("cpu"))
        products.matmul(*args, **options)

    for module in (blocks, two_pass, exponentials):
        monkeypatch.setattr(module, "matmul", watched)
    problem = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        problem.loss(budget_bytes=bytes_).value.backward()
        gspo_torch.token_logp(problem.hidden, problem.lm_head, problem.tokens.clamp(min=0)).sum().backward()
        assert torch.is_autocast_enabled("cpu")
    assert len(inside) >= 7
    assert not any(inside)


def test_transposed_and_strided_parameters() -> None:
    """A head stored as [H, V], states with a stride, tokens in int32."""
    problem = make()
    turned = replace(
        problem,
        lm_head=problem.lm_head.detach().T.contiguous().T.requires_grad_(),
        hidden=problem.hidden.detach().repeat(1, 1, 2)[..., : problem.hidden.shape[-1]].requires_grad_(),
        tokens=problem.tokens.to(torch.int32),
    )
    assert not turned.lm_head.is_contiguous()
    assert not turned.hidden.is_contiguous()
    for bytes_ in (0, 2**20):
        assert_in_budget(turned, ours(turned, budget_bytes=bytes_), from_logits(turned))


class Model(nn.Module):
    """Embedding, a layer, and the embedding again as the head."""

    def __init__(self, repeat: Callable[..., Tensor] = lambda f, x: f(x)) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(13, 8, dtype=torch.float64)
        self.layer = nn.Sequential(nn.Linear(8, 16, dtype=torch.float64), nn.Tanh(), nn.Linear(16, 8, dtype=torch.float64))
        self.repeat = repeat

    def forward(self, ids: Tensor) -> Tensor:
        return self.repeat(self.layer, self.embedding(ids))


IDS = torch.arange(20).reshape(4, 5) * 7 % 13
MASK = torch.arange(5)[None, :] < torch.tensor([4, 2, 0, 3])[:, None]
ADVANTAGE = torch.tensor([1.0, -1.0, 1.0, 0.5], dtype=torch.float64)


def fused(model: Callable[[Tensor], Tensor], head: Tensor, bytes_: int) -> Tensor:
    """Our loss on the model's states; position t predicts the next id."""
    arguments = (head, IDS.roll(-1, 1), None, ADVANTAGE, Padded(MASK))
    return gspo_torch.linear_policy_loss(GSPO, model(IDS), *arguments, on_policy=True, budget_bytes=bytes_).value


def gradients(value: Tensor, model: Model) -> list[Tensor]:
    return list(torch.autograd.grad(value, list(model.parameters())))


def naive_gradients() -> list[Tensor]:
    """Of full logits and policy_loss, with the tied embedding."""
    model = Model()
    logp = torch.log_softmax(model(IDS) @ model.embedding.weight.T, -1).gather(-1, IDS.roll(-1, 1)[..., None])[..., 0]
    return gradients(gspo_torch.policy_loss(GSPO, logp, None, ADVANTAGE, Padded(MASK), on_policy=True).value, model)


def assert_naive(actual: list[Tensor]) -> None:
    """Float64: 1e-13, sums of tens of terms of order one."""
    for mine, wanted in zip(actual, naive_gradients(), strict=True):
        assert wanted.abs().max() > 1e-3
        assert (mine - wanted).abs().max() <= 1e-13


@BUDGETS
def test_a_tied_embedding_gets_both_its_gradients(bytes_: int) -> None:
    model = Model()
    assert_naive(gradients(fused(model, model.embedding.weight, bytes_), model))
    untied = fused(model, model.embedding.weight.detach(), bytes_)
    assert (gradients(untied, model)[0] - naive_gradients()[0]).abs().max() > 1e-3


@BUDGETS
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_around_the_model(reentrant: bool, bytes_: int) -> None:
    model = Model(lambda f, x: checkpoint(f, x, use_reentrant=reentrant))
    assert_naive(gradients_by_backward(fused(model, model.embedding.weight, bytes_), model))


@BUDGETS
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_around_model_and_loss(reentrant: bool, bytes_: int) -> None:
    """The loss is computed twice: the first time without gradients, or for nothing."""
    model = Model()
    start = torch.zeros((), requires_grad=True)

    def whole(_start: Tensor) -> Tensor:
        return fused(model, model.embedding.weight, bytes_)

    assert_naive(gradients_by_backward(checkpoint(whole, start, use_reentrant=reentrant), model))


def gradients_by_backward(value: Tensor, model: Model) -> list[Tensor]:
    """Reentrant checkpoints know only backward()."""
    value.backward()
    return [p.grad for p in model.parameters()]


@pytest.fixture
def compiled() -> Iterator[Callable[..., Any]]:
    """torch.compile, whose traces are thrown away afterwards. Lowering them would be a test of torch."""
    torch._dynamo.reset()
    yield lambda f: torch.compile(f, backend="eager")
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.* should not be instantiated:DeprecationWarning")
# Where the graph breaks, torch looks at .grad of what goes on into the next one.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize(("what", "bytes_"), [("the model", 2**20), ("the step", 0)])
def test_compiling_around_the_loss(compiled: Callable[..., Any], what: str, bytes_: int) -> None:
    """A compiled model in front of the head, or one function of both: graphs may break at the head, results may not."""
    model = Model()
    if what == "the model":
        value = fused(compiled(model), model.embedding.weight, bytes_)
    else:
        value = compiled(lambda head: fused(model, head, bytes_))(model.embedding.weight)
    assert_naive(gradients(value, model))
