"""Switched to the formula that TRL computes, the adapter trains as TRL does: the same parameters after off-policy steps."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from support.trainers.trl_runs import STEPS, logged, ours, parameters, theirs

from gspo_core.objectives import BNPO, CISPO, DAPO, DR_GRPO, GRPO, GSPO, LUSPO, SAPO, VESPO, FixedLength, Objective

ONCE = {"generation": 1, "num_iterations": STEPS}
"""All steps on the same responses: where a step is not its whole generation, TRL's dapo divides by other steps' tokens, too."""
SEQUENCE = {"importance_sampling_level": "sequence", "loss_type": "grpo"}


def wide(objective: Objective) -> Objective:
    """With TRL's default range."""
    return objective.with_clip(0.2, 0.2)


FIXED = dataclasses.replace(wide(DR_GRPO), reduction=FixedLength(256))
CASES: dict[str, tuple[Objective, dict[str, Any], dict[str, Any]]] = {
    "the defaults": (wide(DAPO), {}, ONCE),
    "the defaults in four micro-batches": (wide(DAPO), {}, {"accumulation": 4, **ONCE}),
    "sequence level": (wide(GSPO), SEQUENCE, {}),
    "grpo": (wide(GRPO), {"loss_type": "grpo"}, {}),
    "bnpo": (wide(BNPO), {"loss_type": "bnpo"}, {}),
    "dr_grpo": (
        dataclasses.replace(wide(DR_GRPO), reduction=FixedLength(256)),
        {"loss_type": "dr_grpo"},
        {"lr": 1.0, "max_completion_length": 256},
    ),
    "luspo": (wide(LUSPO), {"loss_type": "luspo", "importance_sampling_level": "sequence"}, {"lr": 1e-3}),
    "sapo": (SAPO, {"loss_type": "sapo"}, {"lr": 0.05}),
    "cispo": (CISPO, {"loss_type": "cispo", "epsilon_high": 5.0}, ONCE),
    "vespo": (VESPO, {"loss_type": "vespo"}, {"lr": 0.02, **ONCE}),
    "k3 times the ratio": (wide(DAPO), {}, {"beta": 0.1, **ONCE}),
    "k3": (wide(DAPO), {}, {"beta": 0.1, "use_bias_correction_kl": False, "lr": 1e-3, **ONCE}),
    "an entropy bonus": (wide(DAPO), {}, {"entropy_coef": 0.1, **ONCE}),
    "LoRA": (wide(GSPO), SEQUENCE, {"lora": True, "lr": 1.0}),
    "tokens of tools": (wide(DAPO), {}, {"tools": True, **ONCE}),
    "gradient checkpointing": (wide(GSPO), SEQUENCE, {"gradient_checkpointing": True}),
    "a temperature": (wide(GSPO), SEQUENCE, {"temperature": 0.7, "lr": 1e-3}),
}
OTHER_VALUE = {"cispo", "vespo"}
"""Their printed value is weight · log π, whose gradient is ours and which is no loss; see docs/family.md."""


@pytest.mark.parametrize("case", CASES)
def test_the_same_training(case: str) -> None:
    objective, loss, both = CASES[case]
    mine, host = ours(objective, **both), theirs(**loss, **both)
    after, expected = parameters(mine), parameters(host)
    start = parameters(ours(objective, **{**both, "lr": 0.0}))
    moved = max(float(np.abs(expected[name] - start[name]).max()) for name in start)
    assert moved > 1e-3, "something is trained"
    for name, theirs_then in expected.items():
        np.testing.assert_allclose(after[name], theirs_then, atol=2e-6 + 2e-6 * moved, rtol=1e-5, err_msg=name)
    if case not in OTHER_VALUE:
        np.testing.assert_allclose(logged(mine, "loss"), logged(host, "loss"), atol=1e-6, rtol=2e-5)


def test_the_steps_are_off_policy_and_something_is_clipped() -> None:
    trained = ours(wide(GSPO))
    assert max(logged(trained, "gspo/clip_active")) > 0.05
