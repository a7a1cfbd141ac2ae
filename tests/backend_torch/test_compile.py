"""torch.compile takes the loss in one graph and, for any length, compiles it at most twice.

Backend `eager` runs the graph as it was traced. Lowering it as well, with `aot_eager`, costs twice as much again and sees only
the operators of torch: it is done once here, and once in test_turns and test_static.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gspo_torch
import pytest
import torch
from support.differentiable import OBJECTIVES, Inputs, assert_close, inputs
from torch import Tensor
from torch._dynamo.exc import Unsupported
from torch._dynamo.utils import counters

from gspo_core import GSPO, Padded, batch_metrics, summary
from gspo_core.metrics import Metrics

LENGTHS = range(3, 23)

pytestmark = [
    pytest.mark.slow,
    # Torch's own use of what it deprecates, while tracing.
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated"),
    pytest.mark.filterwarnings("ignore:.*autograd.function.Function.* should not be instantiated:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def step(name: str) -> Callable[..., Tensor]:
    """A training step's loss: scaled log-probs, so that the gradient passes through something."""

    def value(scale: Tensor, logp: Tensor, old: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
        return gspo_torch.policy_loss(OBJECTIVES[name], scale * logp, old, advantage, Padded(mask)).value

    return value


def compilations() -> int:
    """Graphs compiled since the test began."""
    return int(counters["stats"]["unique_graphs"])


def value_and_grad(f: Callable[..., Tensor], batch: Inputs) -> tuple[Tensor, Tensor]:
    """(value, derivative with respect to the scale)."""
    scale = torch.tensor(0.97, dtype=torch.float64, requires_grad=True)
    value = f(scale, *batch)
    (gradient,) = torch.autograd.grad(value, scale)
    return value.detach(), gradient


# The third, GSPO-token, is compiled in packed rows by test_layouts.
@pytest.mark.parametrize(("name", "backend"), [("GSPO", "aot_eager"), ("GRPO", "eager")])
def test_twenty_lengths_two_compilations_no_graph_break(name: str, backend: str) -> None:
    compiled = torch.compile(step(name), fullgraph=True, dynamic=True, backend=backend)
    for width in LENGTHS:
        batch = inputs(seed=width, num=4 + width % 3, width=width)
        for ours, eager in zip(value_and_grad(compiled, batch), value_and_grad(step(name), batch), strict=True):
            assert_close(ours, eager)
    assert 1 <= compilations() <= 2
    assert not counters["graph_break"]


# Compiling takes seconds: what does not depend on the ratio is tested once.
@pytest.mark.parametrize("name", ["GSPO"])
def test_on_policy_compiles_too(name: str) -> None:
    def value(scale: Tensor, logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
        return gspo_torch.policy_loss(OBJECTIVES[name], scale * logp, None, advantage, Padded(mask), on_policy=True).value

    compiled = torch.compile(value, fullgraph=True, dynamic=True, backend="eager")
    batch = inputs()
    without_old = Inputs(batch.logp, batch.advantage, batch.mask, None)[:3]
    for ours, eager in zip(value_and_grad(compiled, without_old), value_and_grad(value, without_old), strict=True):
        assert_close(ours, eager)


@pytest.mark.parametrize("name", ["GSPO"])
def test_a_denominator_may_change_without_recompiling(name: str) -> None:
    def value(scale: Tensor, logp: Tensor, old: Tensor, advantage: Tensor, mask: Tensor, total: Tensor) -> Tensor:
        return gspo_torch.policy_loss(OBJECTIVES[name], scale * logp, old, advantage, Padded(mask), denominator=total).value

    compiled = torch.compile(value, fullgraph=True, dynamic=True, backend="eager")
    batch = inputs()
    for total in (3, 7, 100):
        arguments = (*batch, torch.tensor(total))
        for ours, eager in zip(value_and_grad(compiled, arguments), value_and_grad(value, arguments), strict=True):
            assert_close(ours, eager)
    assert compilations() == 1


def measured(logp: Tensor, old: Tensor, advantage: Tensor, mask: Tensor) -> tuple[Tensor, Metrics]:
    """A loss and its metrics, which share numbers such as the guard of exp."""
    layout = Padded(mask)
    loss = gspo_torch.policy_loss(GSPO, logp, old, advantage, layout)
    return loss.value, batch_metrics(GSPO, loss, logp, old, advantage, layout)


def test_loss_and_metrics_are_one_graph() -> None:
    batch = inputs()
    logp = batch.logp.detach().requires_grad_()
    compiled = torch.compile(measured, fullgraph=True, dynamic=True, backend="eager")
    (value, metrics), (eager, expected) = (f(logp, *batch[1:]) for f in (compiled, measured))
    assert_close(value, eager)
    assert summary(metrics) == pytest.approx(summary(expected), rel=1e-12)
    assert_close(*(torch.autograd.grad(x, logp)[0] for x in (value, eager)))


def test_a_loss_without_a_gradient_compiles_too() -> None:
    """Dynamo looks at how an autograd function's forward is written when none of its inputs has a gradient."""
    compiled = torch.compile(step("GSPO"), fullgraph=True, dynamic=True, backend="eager")
    batch = inputs()
    arguments = (torch.tensor(0.97, dtype=torch.float64), batch.logp.detach(), *batch[1:])
    assert_close(compiled(*arguments), step("GSPO")(*arguments))


def head_loss(hidden: Tensor, head: Tensor, tokens: Tensor) -> Tensor:
    """GSPO on hidden states, which looks at its numbers."""
    mask = torch.ones(tokens.shape, dtype=torch.bool)
    return gspo_torch.linear_policy_loss(
        GSPO, hidden, head, tokens, None, torch.ones(len(tokens)), Padded(mask), on_policy=True
    ).value


def test_the_loss_on_hidden_states_is_refused_inside_of_one_graph() -> None:
    arguments = (torch.ones(2, 3, 4), torch.eye(5, 4), torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(Unsupported, match=r"'hidden: expected a tensor whose numbers can be read.*static=True"):
        torch.compile(head_loss, fullgraph=True, backend="aot_eager")(*arguments)


def test_the_graph_break_check_can_fail() -> None:
    """The guard: a truth value of an array breaks the graph, and fullgraph says so."""

    def bad(x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x

    with pytest.raises(Unsupported):
        torch.compile(bad, fullgraph=True, dynamic=True, backend="aot_eager")(torch.ones(3))


def test_the_compilation_count_can_fail() -> None:
    """The guard: a length that is read as a number recompiles every time."""
    compiled = torch.compile(lambda x: x * len(x), backend="aot_eager", dynamic=False)
    for width in range(2, 6):
        compiled(torch.ones(width))
    assert compilations() == 4
