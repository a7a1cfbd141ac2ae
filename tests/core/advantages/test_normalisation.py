"""docs/normalisation.md: with every row's call, the parts add up to the whole, however the batch was cut."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.repository import ROOT

from gspo_core import GRPO, GSPO, GSPO_TOKEN, Objective, Padded, policy_loss
from gspo_core.objectives import DAPO

PAGE = (ROOT / "docs" / "normalisation.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (.+?) \| (.+?) \| `denominator=(.+?)` \| `loss\.(\w+)` \|$", PAGE, flags=re.MULTILINE)

# What each host does with a part's gradient, in numbers: (divides by steps, averages over ranks, has divided by the count).
HOSTS: dict[str, tuple[bool, ...]] = {
    "plain loop": (False, False),
    "gradient accumulation that divides (Trainer without `num_items_in_batch`)": (True, False),
    "DDP, FSDP": (False, True),
    "both": (True, True),
    "TRL (`_compute_loss`)": (False, True),
    "ms-swift (`_compute_loss_and_metrics`)": (True, True),
    "verl (`register_policy_loss`)": (False, True),
    "OpenRLHF (`PolicyLoss`)": (False, True),
    "SkyRL (`register_policy_loss`)": (False, False, True),
    "torchrl (`GRPOLoss`)": (False, True),
    "Tunix 0.1.7 (`register_policy_loss_fn`)": (True, False),
    "tinker (`forward_backward_custom`)": (False, False),
    "NeMo-RL (`LossFunction`)": (False, False),
    "JAX, `lax.pmean` of gradients": (False, True),
    "a service that takes per-token weights": (False, False),
}
N, T = 12, 5


def batch() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(logp, old_logp, advantage, mask), ragged, no empty response: hosts count those differently."""
    rng = np.random.default_rng(0)
    logp = rng.normal(size=(N, T))
    mask = np.arange(T)[None, :] < rng.integers(1, T + 1, size=(N, 1))
    return logp, logp + 0.1 * rng.normal(size=(N, T)), rng.normal(size=N), mask


def gradient(objective: Objective, rows: np.ndarray, denominator: float | None) -> np.ndarray:
    """∂loss/∂logp of some of the responses, in the whole batch's shape."""
    logp, old, advantage, mask = batch()
    out = np.zeros((N, T))
    loss = policy_loss(objective, logp[rows], old[rows], advantage[rows], Padded(mask[rows]), denominator=denominator)
    out[rows] = loss.logp_grad
    return out


def as_the_host_sees_it(host: str, parts: list[list[np.ndarray]], count: float) -> float:
    """The factor by which the host shrinks a part's gradient."""
    divides, averages, *divided = HOSTS[host]
    of_advantages = 1 / count if divided else 1.0
    return (1 / len(parts[0]) if divides else 1.0) * (1 / len(parts) if averages else 1.0) * of_advantages


def test_every_row_is_a_test() -> None:
    assert [name for name, *_ in ROWS] == list(HOSTS)


@pytest.mark.parametrize("objective", [GSPO, GSPO_TOKEN, GRPO, DAPO], ids=["GSPO", "GSPO_TOKEN", "GRPO", "DAPO"])
@pytest.mark.parametrize(("host", "expression"), [(name, call) for name, _, call, _ in ROWS])
@given(owner=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=N, max_size=N))
def test_the_parts_are_the_whole(objective: Objective, host: str, expression: str, owner: list[tuple[int, int]]) -> None:
    """Three ranks of two micro-batches, of any size, also empty."""
    parts = [[np.array([i for i in range(N) if owner[i] == (r, m)], dtype=int) for m in range(2)] for r in range(3)]
    whole = Padded(batch()[3])
    count = float(objective.count(whole))
    names = {
        "count": count,
        "steps": 2,
        "ranks": 3,
        "dp_size": 3,
        "global_batch_size": count,  # of the objective's own kind: responses, or tokens for a mean over tokens
        "global_valid_seqs": count,
    }
    denominator = float(eval(expression, {"__builtins__": {}}, names))
    factor = as_the_host_sees_it(host, parts, count)
    total = sum(factor * gradient(objective, rows, denominator) for rank in parts for rows in rank)
    expected = gradient(objective, np.arange(N), None)
    assert (expected != 0).any()
    np.testing.assert_allclose(total, expected, rtol=1e-12, atol=0)


def test_a_mean_of_means_is_something_else() -> None:
    """The guard: parts that divide by their own counts do not add up to the whole."""
    parts = [np.arange(2), np.arange(2, N)]
    total = sum(gradient(GSPO, rows, None) / 2 for rows in parts)
    expected = gradient(GSPO, np.arange(N), None)
    live = expected != 0
    assert np.abs(total[live] / expected[live] - 1).max() > 0.3
