"""Responses of another engine: TRL's corrections are ours, and ours can be had in their place. The engine is a stand-in."""

from typing import Any

import numpy as np
import pytest
import trl.trainer.grpo_trainer as host
from support.trainers.trl_runs import STEPS, logged, ours, parameters, theirs

from gspo_core.mismatch import MIS
from gspo_core.objectives import DAPO, GSPO


class Engine:
    """Stands where vLLM would; responses come from rollout_func."""

    def __init__(self, **_: Any) -> None:
        self.vllm_client = None

    def sync_weights(self) -> None:
        """Nothing to send."""


@pytest.fixture(autouse=True)
def _engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "VLLMGeneration", Engine)


BOTH: dict[str, Any] = {"use_vllm": True, "vllm_mode": "colocate", "sampled": True, "lr": 1e-3}
BOTH |= {"generation": 1, "num_iterations": STEPS}


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        (GSPO, {"vllm_importance_sampling_mode": "sequence_mask", "vllm_importance_sampling_clip_max": 2.0}),
        (GSPO, {"vllm_importance_sampling_mode": "sequence_truncate", "vllm_importance_sampling_clip_max": 1.2}),
        (DAPO, {"vllm_importance_sampling_mode": "token_truncate", "vllm_importance_sampling_clip_max": 1.1}),
        (DAPO, {"vllm_importance_sampling_mode": "token_mask", "vllm_importance_sampling_clip_min": 0.5}),
    ],
)
def test_the_corrections_of_trl(objective: Any, options: dict[str, Any]) -> None:
    level = {"importance_sampling_level": "sequence", "loss_type": "grpo"} if objective is GSPO else {}
    mine = ours(objective.with_clip(0.2, 0.2), **BOTH, **options)
    expected, plain = parameters(theirs(**level, **BOTH, **options)), parameters(ours(objective.with_clip(0.2, 0.2), lr=1e-3))
    for name, values in parameters(mine).items():
        np.testing.assert_allclose(values, expected[name], atol=1e-6, rtol=1e-5, err_msg=name)
    assert any(np.abs(plain[name] - expected[name]).max() > 1e-4 for name in plain), "the weights matter"
    assert max(logged(mine, "gspo/sampler_weight_max"), default=1.0) > 0


def test_a_correction_of_ours() -> None:
    masked = {"vllm_importance_sampling_mode": "sequence_mask", "vllm_importance_sampling_clip_max": 2.0}
    own = ours(GSPO, **BOTH, sampler_correction=MIS)
    same = parameters(ours(GSPO, **BOTH, **masked, vllm_importance_sampling_clip_min=0.5))
    for name, values in parameters(own).items():
        np.testing.assert_array_equal(values, same[name])
