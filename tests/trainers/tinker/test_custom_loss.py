"""tinker: our loss as its custom loss, and as the weights that it sends to the server's cross-entropy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tinker
import torch
from gspo_torch.trainers.tinker import custom_loss, token_weights
from hypothesis import given
from hypothesis import strategies as st
from support.trainers.paper import paper
from support.trainers.rows_in_torch import Rows, rows
from tinker.lib.public_interfaces.training_client import TrainingClient

from gspo_core import GSPO, GSPO_TOKEN
from gspo_core.objectives import PRESETS

PROMPT = 2
"""Tokens before each response, which a mask leaves out."""


def data(batch: Rows, masked: bool) -> tuple[list[Any], list[torch.Tensor]]:
    """tinker's Datum of every response, and the log-probs of its tokens."""
    made, logprobs = [], []
    for logp, old, _, advantage, mask in zip(*batch, strict=True):
        before = PROMPT if masked else 0
        fields = {"logprobs": old[mask], "advantages": advantage[mask], "mask": torch.ones(int(mask.sum()), dtype=old.dtype)}
        inputs = {name: torch.cat([torch.zeros(before), x]).float() for name, x in fields.items() if masked or name != "mask"}
        size = len(inputs["logprobs"])
        inputs["target_tokens"] = torch.ones(size, dtype=torch.int64)
        made.append(
            tinker.types.Datum(
                model_input=tinker.types.ModelInput.from_ints([1] * size),
                loss_fn_inputs={name: tinker.types.TensorData.from_torch(x) for name, x in inputs.items()},
            )
        )
        logprobs.append(torch.cat([torch.full((before,), -9.0), logp[mask]]).float())
    return made, logprobs


def through_tinker(loss_fn: Any, made: list[Any], logprobs: list[torch.Tensor]) -> tuple[float, list[Any], dict[str, float]]:
    """tinker's own step between the two passes on the server: (loss, weights sent, metrics)."""
    outputs = [{"logprobs": tinker.types.TensorData.from_torch(x)} for x in logprobs]
    found = TrainingClient._compute_custom_loss(made, loss_fn, SimpleNamespace(loss_fn_outputs=outputs))
    linear, metrics, value = found.data, found.metrics, found[2] if isinstance(found, tuple) else found.loss_sum
    return value, [np.asarray(datum.loss_fn_inputs["weights"].to_torch()) for datum in linear], metrics


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
@given(seed=st.integers(0, 1000))
def test_the_server_gets_minus_the_paper_s_gradient(preset: str, masked: bool, seed: int) -> None:
    """Value, and the weights of every token; a response may be empty, prompts have weight 0."""
    batch = Rows(*(x.float() if x.is_floating_point() else x for x in rows(seed)))
    if not masked:  # a datum has at least one token
        batch = Rows(*(x[batch.mask.any(1)] for x in batch))
    made, logprobs = data(batch, masked)
    value, weights, _ = through_tinker(custom_loss(PRESETS[preset]), made, logprobs)
    exact = paper(preset, batch.logp, batch.old, batch.advantages, batch.mask)
    scale = 1 + abs(exact.value)
    assert abs(value - exact.value) <= 3e-6 * scale
    for sent, gradient, mask in zip(weights, exact.grad, batch.mask, strict=True):
        assert not sent[: PROMPT * masked].any()
        assert np.abs(sent[PROMPT * masked :] + gradient[mask.numpy()]).max(initial=0.0) <= 3e-6 * scale


@pytest.mark.parametrize("masked", [False, True])
def test_weights_of_one_pass_are_those_of_two(masked: bool) -> None:
    """−logp_grad, token by token: what `forward_backward_custom` sends, and what "cross_entropy" takes."""
    made, logprobs = data(rows(1, (3, 1, 5), spread=1e-4), masked)
    _, sent, _ = through_tinker(custom_loss(GSPO), made, logprobs)
    for one, two in zip(token_weights(GSPO, made, logprobs), sent, strict=True):
        assert np.abs(one.numpy() - two).max() <= 1e-7
    assert max(np.abs(x).max() for x in sent) > 1e-2


def test_several_calls_of_a_step_add_up() -> None:
    """With the count of all responses as the denominator of each."""
    batch = rows(2, (3, 1, 5, 2))
    made, logprobs = data(batch, False)
    exact = paper("GSPO", batch.logp, batch.old, batch.advantages, batch.mask)
    parts = [through_tinker(custom_loss(GSPO, denominator=4), made[k : k + 2], logprobs[k : k + 2]) for k in (0, 2)]
    assert sum(value for value, _, _ in parts) == pytest.approx(exact.value, abs=1e-6)
    sent = [x for _, weights, _ in parts for x in weights]
    assert max(np.abs(x + g[m]).max() for x, g, m in zip(sent, exact.grad, batch.mask.numpy(), strict=True)) <= 1e-6


def test_metrics_come_back() -> None:
    made, logprobs = data(rows(1, (3, 1, 5)), True)
    metrics = through_tinker(custom_loss(GSPO), made, logprobs)[2]
    assert metrics["gspo/sequences"] == 3
    assert metrics["gspo/tokens"] == 9
    assert all(isinstance(value, float) for value in metrics.values())


def test_token_advantages_want_a_ratio_of_tokens() -> None:
    batch = rows(0, (3, 1, 5))
    batch.advantages[0, 1] += 1.0
    made, logprobs = data(batch, True)
    assert np.isfinite(through_tinker(custom_loss(GSPO_TOKEN), made, logprobs)[0])
    with pytest.raises(ValueError, match="advantages: expected one number per response"):
        through_tinker(custom_loss(GSPO), made, logprobs)
