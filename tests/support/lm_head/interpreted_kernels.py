"""The Triton kernels against float64 and against `blocks`, in Triton's interpreter: run by test_triton_kernels.

TRITON_INTERPRET must be 1 before Triton is imported, so this is a process of its own. It prints one JSON line per check.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from itertools import product
from typing import Any

import gspo_torch
import torch
from gspo_torch.distributed import VocabularyShard
from gspo_torch.lm_head import blocks, two_pass
from gspo_torch.lm_head import triton_kernels as kernels
from gspo_torch.lm_head.blocks import Scores, Weights
from gspo_torch.lm_head.head import Head
from support.lm_head.agreement import error
from support.lm_head.cases import Answer, Problem, from_logits, make, ours, small_pieces
from support.lm_head.kernel_inputs import SHAPES, head_of, logits64, variants
from torch import Tensor

assert kernels.INTERPRETED
EPS32 = torch.finfo(torch.float32).eps
ROUNDING = {torch.float16: torch.finfo(torch.float16).eps / 2, torch.bfloat16: torch.finfo(torch.bfloat16).eps}
"""What a tile's rounding may cost: half a unit; a whole one in bfloat16, which the interpreter truncates to."""


def cells() -> list[tuple[torch.dtype, tuple[int, int, int], dict[str, Any]]]:
    """Every variant in one of the dtypes: of a shape's four the outer two in float16, so that every pair occurs."""
    kinds = list(ROUNDING)
    return [(kinds[i % 4 in (1, 2)], *variant) for i, variant in enumerate(variants())]


def float32_of(actual: Tensor, expected: Tensor, budget: float) -> None:
    """Within a budget in units of float32's rounding."""
    assert error(actual, expected) <= budget * EPS32, f"{error(actual, expected) / EPS32} units over {budget}"


def scores_are_float32_good() -> None:
    """A logit of order 16 sums H products, a softmax V exponentials: (16 H + V) units; 1/temperature of them."""
    for dtype, shape, options in cells():
        head, states, tokens = head_of(*shape, dtype, **options)
        log_p = torch.log_softmax(logits64(head, states), -1)
        seen = two_pass.finish(head, kernels.scores(head, states, tokens, True, True))
        budget = (16 * shape[1] + shape[2]) / head.temperature
        float32_of(seen.logp, log_p.gather(1, tokens[:, None])[:, 0], budget)
        assert seen.entropy is not None
        float32_of(seen.entropy, -(log_p.exp() * log_p).sum(1), budget)
        assert seen.sum_squares is not None
        float32_of(seen.sum_squares, log_p.exp().square().sum(1), budget)


def scores_are_those_of_plain_torch() -> None:
    """The part of a vocabulary that begins at 100: rows whose token is elsewhere have picked 0. With and without entropy."""
    for (i, shape), entropy in product(enumerate(SHAPES), (False, True)):
        dtype = list(ROUNDING)[(i + entropy) % 2]
        head, states, tokens = head_of(*shape, dtype, shard=VocabularyShard(100, 10**4, None))
        tokens = tokens % 100 + torch.tensor([100, 0, 100 + shape[2]])[torch.arange(shape[0]) % 3]
        theirs = two_pass._scores(head, states, tokens, entropy, squares=entropy)
        mine = kernels.scores(head, states, tokens, entropy, squares=entropy)
        assert (mine.weighted is None) == (mine.squares is None) == (not entropy)
        budget = 16 * shape[1] + shape[2]
        elsewhere = torch.arange(shape[0]) % 3 > 0
        assert not mine.picked[elsewhere].any()
        assert mine.picked[~elsewhere].all()
        for a, b in ((mine.best, theirs.best), (mine.picked, theirs.picked), (_lse(mine), _lse(theirs))):
            float32_of(a, b.double(), budget)
        if mine.weighted is not None and theirs.weighted is not None:
            float32_of(mine.weighted / mine.total, (theirs.weighted / theirs.total).double(), 16 * budget)


def _lse(seen: Scores) -> Tensor:
    return seen.best + seen.total.log()


def gradient_tiles_are_those_of_plain_torch() -> None:
    """In the parameters' dtype: its rounding, and float32's budget. Blocks in the middle of the vocabulary, too."""
    for dtype, shape, options in cells():
        head, states, tokens = head_of(*shape, dtype, **options)
        z = logits64(head, states)
        lse = z.logsumexp(1)
        generator = torch.Generator().manual_seed(1)
        c, e = torch.randn(2, shape[0], generator=generator)
        c[::3] = 0.0
        mean = (z.softmax(1) * z).sum(1).float()
        for weights in (Weights(c, lse.float(), None, None), Weights(c, lse.float(), e, mean)):
            for block in (slice(0, shape[2]), slice(shape[2] // 8 * 4, shape[2])):
                wide = torch.empty(shape[0] * shape[2])
                expected = blocks.dlogits(head, states, tokens, block, weights, wide)
                low = torch.full((shape[0] * (shape[2] + 8),), torch.nan, dtype=dtype)
                tile = kernels.dlogits(head, states, tokens, block, weights, low)
                assert tile.dtype == dtype
                size = expected.abs().amax().item()
                budget = ROUNDING[dtype] * size + (16 * shape[1] + shape[2]) * EPS32 * 8 / head.temperature**2
                assert error(tile, expected.double()) <= budget
                assert not tile[c == 0].any() or weights.e is not None


def a_minus_infinite_bias_takes_a_token_out() -> None:
    """A whole tile of them, too, as in a padded vocabulary."""
    for dtype in ROUNDING:
        head, states, tokens = head_of(5, 16, 100, dtype, bias=True)
        assert head.bias is not None
        head.bias[32:70] = -torch.inf
        tokens = tokens % 32
        log_p = torch.log_softmax(logits64(head, states), -1)
        seen = two_pass.forward(head, states, tokens, entropy=True)
        float32_of(seen.logp, log_p.gather(1, tokens[:, None])[:, 0], 16 * 16 + 100)
        e = torch.full((5,), 1e8)
        gone = kernels.dlogits(
            head, states, tokens, slice(0, 100), Weights(0 * e, seen.lse, e, seen.logp), torch.ones(520).to(dtype)
        )
        assert not gone[:, 32:70].any()


def _problem(dtype: torch.dtype, **more: Any) -> Problem:
    return make(lengths=(3, 9, 0, 5, 1), width=24, vocabulary=70, **more).to(dtype)


def _assert_low(problem: Problem, answer: Answer) -> None:
    """Log-probs within float32's budget. Gradients: tiles are rounded to the dtype, so that a sum of products is off by that
    rounding of Σ |dz| |other operand| (dz sums to at most 2 |c| per row), and by its own at the end."""
    truth = from_logits(problem)
    if answer.logp is not None and truth.logp is not None:
        float32_of(answer.logp, truth.logp, 2 * (16 * 24 + 70))
    dtype = problem.hidden.dtype
    c = truth.weight.abs()
    states = torch.where(problem.layout.valid[..., None], problem.hidden.detach(), 0.0).double().abs()
    sums = {
        "hidden": 2 * c.amax() * problem.lm_head.detach().double().abs().amax(),
        "lm_head": 2 * (c[..., None] * states).sum((0, 1)).amax(),
        "bias": 2 * c.sum(),
    }
    for name, gradient in answer.gradients.items():
        wanted = truth.gradients[name]
        budget = ROUNDING[dtype] * (sums[name].item() + wanted.abs().amax().item())
        assert wanted.abs().amax() > 0
        assert error(gradient, wanted) <= budget, f"{name} {dtype}: {error(gradient, wanted)} over {budget}"


def the_whole_loss_goes_through_the_kernels() -> None:
    """Several tiles of rows and blocks of the vocabulary; with bias, cap, temperature and entropy, clipped rows left out."""
    calls = {"scores": 0, "dlogits": 0}
    real = {name: getattr(kernels, name) for name in calls}
    shape = two_pass._tile_shape

    def counted(name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls[name] += 1
            return real[name](*arguments)

        return call

    for name in calls:
        setattr(kernels, name, counted(name))
    two_pass._tile_shape = lambda *_: (7, 24)
    try:
        for dtype in ROUNDING:
            for options in ({}, {"temperature": 0.7, "soft_cap": 5.0, "entropy_bonus": 0.2}):
                problem = _problem(dtype, options=options)
                _assert_low(problem, ours(problem, budget_bytes=0, return_logp=True, return_entropy=True))
    finally:
        two_pass._tile_shape = shape
        for name, f in real.items():
            setattr(kernels, name, f)
    assert calls["scores"] == 4
    assert calls["dlogits"] >= 4 * 2 * 3


def sequences_too_long_for_the_aligned_way_add_to_its_sums() -> None:
    """The kernels' gradients are added to what other chunks left there, whatever unit they are made in."""
    for dtype in ROUNDING:
        problem = _problem(dtype, drift=1e-3, advantage=torch.tensor([2.0, -1.0, 0.0, 1.0, 1.0]).double())
        with small_pieces((7, 24)):
            answer = ours(problem, budget_bytes=6 * 70 * 4 + 70 * 24 * 4)
        _assert_low(problem, answer)


def small_weights_do_not_underflow() -> None:
    """Weights of 1e-7 and less, as 1/(N |y|) is: times a probability below float16's smallest number. Each row on its scale."""
    problem = _problem(torch.float16)
    whole = ours(problem, budget_bytes=0).gradients
    loss = problem.loss(budget_bytes=0, denominator=4e7)
    scaled = torch.autograd.grad(loss.value * 2.0**23, list(problem.leaves().values()))
    assert 0 < loss.logp_grad.abs().amax() < 1e-7
    for name, gradient in zip(problem.leaves(), scaled, strict=True):
        expected = whole[name].double() * (4 * 2.0**23 / 4e7)
        assert error(gradient, expected) <= 4 * torch.finfo(torch.float16).eps * expected.abs().amax().item()
    rows, tokens = problem.hidden.detach()[problem.layout.valid], problem.tokens[problem.layout.valid]
    head = Head(problem.lm_head.detach(), None)
    lse = two_pass.forward(head, rows, tokens).lse
    weights = Weights(10.0 ** -(7 + torch.arange(len(rows)) % 7), lse, None, None)
    into = two_pass.Gradients(torch.empty(len(rows), 24), torch.empty(70, 24), torch.empty(70))
    two_pass.backward(head, rows, tokens, weights, into)
    p = torch.softmax(rows.double() @ head.weight.double().T, -1)
    dz = weights.c[:, None].double() * (torch.nn.functional.one_hot(tokens, 70) - p)
    assert into.hidden is not None
    per_row = dz @ head.weight.double()
    assert ((into.hidden - per_row).abs() <= 2e-3 * per_row.norm(dim=1, keepdim=True)).all()
    for mine, wanted in ((into.weight, dz.T @ rows.double()), (into.bias, dz.sum(0))):
        assert mine is not None
        assert error(mine, wanted) <= 1e-2 * wanted.abs().amax().item()


def unsuitable_operands_go_through_plain_torch() -> None:
    """Rows of an odd pitch, other dtypes, mixed dtypes, an empty batch: refused by `usable`, computed all the same."""
    head, states, tokens = head_of(4, 12, 9, torch.float16)
    odd = Head(head.weight[:, :9], None)
    assert not kernels.usable(odd, states[:, :9])
    for other, rows in ((odd, states[:, :9]), (Head(head.weight.float(), None), states), (head, states[:0])):
        assert not kernels.usable(other, rows)
        log_p = torch.log_softmax(logits64(other, rows), -1)
        float32_of(
            two_pass.forward(other, rows, tokens[: len(rows)]).logp, log_p.gather(1, tokens[: len(rows), None])[:, 0], 300
        )
    fit, rows, _ = head_of(4, 16, 9, torch.float16)
    assert kernels.usable(fit, rows)


def int32_tokens_are_tokens() -> None:
    """Of both kernels."""
    head, states, tokens = head_of(5, 16, 37, torch.float16)
    a, b = (two_pass.forward(head, states, t).logp for t in (tokens, tokens.int()))
    assert torch.equal(a, b)


def token_logp_is_bitwise_reproducible() -> None:
    """No atomics: the same numbers every time."""
    head, states, tokens = head_of(20, 40, 131, torch.bfloat16)
    a, b = (gspo_torch.token_logp(states, head.weight, tokens) for _ in range(2))
    assert torch.equal(a, b)


def a_wrong_kernel_would_be_seen() -> None:
    """The guard: log-probs off by 1e-3, gradient tiles by 2 %, a lost tile of the vocabulary."""
    scores, dlogits = kernels.scores, kernels.dlogits
    wrong: list[tuple[str, Callable[..., Any], Callable[[], None]]] = [
        ("scores", lambda *a: scores(*a)._replace(picked=scores(*a).picked + 1e-3), scores_are_float32_good),
        ("scores", lambda *a, **k: scores(*a, **k)._replace(best=scores(*a).best + 1e-3), scores_are_those_of_plain_torch),
        ("scores", lambda *a: scores(*a)._replace(squares=scores(*a).total), scores_are_float32_good),
        ("dlogits", lambda *a: dlogits(*a) * 1.02, gradient_tiles_are_those_of_plain_torch),
        ("dlogits", lambda *a: dlogits(*a) * 1.1, the_whole_loss_goes_through_the_kernels),
    ]
    for name, replacement, check in wrong:
        real = getattr(kernels, name)
        setattr(kernels, name, replacement)
        try:
            check()
        except AssertionError:
            continue
        finally:
            setattr(kernels, name, real)
        raise AssertionError(f"{check.__name__} passed with wrong {name}")


CHECKS: list[Callable[[], None]] = [
    scores_are_float32_good,
    scores_are_those_of_plain_torch,
    gradient_tiles_are_those_of_plain_torch,
    a_minus_infinite_bias_takes_a_token_out,
    the_whole_loss_goes_through_the_kernels,
    sequences_too_long_for_the_aligned_way_add_to_its_sums,
    small_weights_do_not_underflow,
    unsuitable_operands_go_through_plain_torch,
    int32_tokens_are_tokens,
    token_logp_is_bitwise_reproducible,
    a_wrong_kernel_would_be_seen,
]


def main() -> None:
    """Run all."""
    torch.set_num_threads(1)
    for check in CHECKS:
        failure = ""
        try:
            check()
        except Exception:
            failure = traceback.format_exc()
        print(json.dumps({"check": check.__name__, "failure": failure}), flush=True)


if __name__ == "__main__":
    main()
