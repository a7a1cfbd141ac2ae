"""Metrics never read a number on the host, record nothing for autograd, and agree with it about what has no gradient."""

from __future__ import annotations

import gspo_torch
import numpy as np
import pytest
import torch
from hypothesis import given
from support.cases import Batch, batches
from support.draws import at_most
from support.family import MEMBERS, Member, by_member
from support.inputs.metric_cases import on_layout
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from gspo_core import (
    GRPO,
    GSPO,
    GSPO_TOKEN,
    TIS,
    Packed,
    Padded,
    PerToken,
    batch_metrics,
    group_metrics,
    merge,
    policy_loss,
    summary,
)
from gspo_core.layouts import Layout
from gspo_core.metrics import Metrics, left_out_metrics, sampler_metrics
from gspo_core.mismatch import MIS


def everything(
    old: torch.Tensor, advantage: torch.Tensor, ids: torch.Tensor, layout: Layout, per_token: torch.Tensor
) -> Metrics:
    """Every function that makes metrics, merged."""
    found = [group_metrics(advantage, ids)]
    logp = old + 1e-3
    for objective, values in ((GSPO, advantage), (GSPO_TOKEN, PerToken(per_token)), (GRPO, advantage)):
        found.append(on_layout(objective, logp, old, values, layout))
        found.append(left_out_metrics(objective, advantage, layout))
    for correction in (TIS, MIS):
        found.append(sampler_metrics(correction, old, logp, layout))
    return merge(*found)


@pytest.mark.slow
def test_no_number_is_read_on_the_host() -> None:
    """Fake tensors have shapes but no numbers: float(), bool(), .item(), nonzero would raise."""
    with FakeTensorMode():
        mask, ids = torch.ones(4, 5, dtype=torch.bool), torch.zeros(4, dtype=torch.int64)
        everything(torch.zeros(4, 5), torch.zeros(4), ids, Padded(mask), torch.zeros(4, 5))
        segments = torch.zeros(20, dtype=torch.int64)
        found = everything(torch.zeros(20), torch.zeros(4), ids, Packed(segments, 4), torch.zeros(20))
        assert found.sums.ndim == 1


@pytest.mark.parametrize("read", [float, bool, lambda x: x.item(), lambda x: x.tolist()])
def test_reading_a_number_would_be_noticed(read: object) -> None:
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        read(torch.zeros(4).sum())  # type: ignore[operator]  # chosen by the library


@pytest.mark.slow
def test_metrics_run_under_jit_and_are_a_pytree() -> None:
    """A traced array raises when it is read; strict promotion tells a float32 from a float64."""
    jax = pytest.importorskip("jax")
    numpy = jax.numpy
    rng = np.random.default_rng(0)
    logp, mask, advantage = rng.normal(size=(4, 5)).astype("float32"), rng.random((4, 5)) < 0.7, np.ones(4, dtype="float32")
    arrays = [numpy.asarray(x) for x in (logp, advantage, np.arange(4) // 2, mask)]

    def step(old: object, advantage: object, ids: object, mask: object) -> Metrics:
        return everything(old, advantage, ids, Padded(mask), old)  # type: ignore[arg-type]  # any device's arrays

    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        traced = jax.jit(step)(*arrays)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(traced))
    expected = everything(*(torch.tensor(np.asarray(x)) for x in arrays[:3]), Padded(torch.tensor(mask)), torch.tensor(logp))
    assert summary(traced) == pytest.approx(summary(expected), rel=1e-4, abs=1e-5)


def test_nothing_is_recorded_for_autograd() -> None:
    logp = torch.zeros(2, 3, requires_grad=True)
    layout, advantage = Padded(torch.ones(2, 3, dtype=torch.bool)), torch.tensor([1.0, -1.0])
    for loss_of in (policy_loss, gspo_torch.policy_loss):
        loss = loss_of(GSPO, logp * 1.0, torch.zeros(2, 3), advantage, layout)
        metrics = batch_metrics(GSPO, loss, logp * 1.0, torch.zeros(2, 3), advantage, layout)
        assert not any(x.requires_grad for x in metrics)
    gap = sampler_metrics(TIS, logp * 1.0, torch.zeros(2, 3), layout)
    assert not any(x.requires_grad for x in gap)


@pytest.mark.slow
@by_member
@at_most(15)
@given(batch=batches())
def test_clipped_means_that_autograd_finds_a_gradient_of_exactly_zero(member: Member, batch: Batch) -> None:
    """Row by row, edges included: each response alone, its metrics against what backward leaves in logp.grad."""
    for i in range(len(batch.mask)):
        row = batch.rows(slice(i, i + 1))
        if not row.mask.any():
            continue
        logp, old, advantage = (torch.tensor(x) for x in (row.logp, row.old_logp, row.advantage))
        logp.requires_grad_()
        layout = Padded(torch.tensor(row.mask))
        loss = gspo_torch.policy_loss(member.objective, logp, old, advantage, layout)
        loss.value.backward()
        assert logp.grad is not None
        numbers = summary(batch_metrics(member.objective, loss, logp, old, advantage, layout))
        dead = (logp.grad[layout.mask] == 0) & bool(advantage[0] != 0)
        assert numbers["clip_active"] == float(dead.all())
        assert numbers["clip_active_tokens"] == pytest.approx(float(dead.double().mean()), rel=1e-12)


def test_some_of_these_rows_are_clipped() -> None:
    """The guard: all presets but those without a hard gate clip a response that has moved far."""
    old, mask = np.zeros((1, 3)), np.ones((1, 3), dtype=bool)
    share = {m.name: summary(on_layout(m.objective, old + 3.0, old, np.ones(1), Padded(mask)))["clip_active"] for m in MEMBERS}
    assert share["GSPO"] == share["GRPO"] == share["GMPO"] == share["FSPO"] == 1.0
    assert share["CISPO"] == share["SAPO"] == 0.0
