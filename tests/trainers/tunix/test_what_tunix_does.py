"""What docs/in-your-trainer.md says of Tunix 0.1.7 itself. If one fails, Tunix has changed: mend the page and the adapter."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from support.trainers.tunix_training import Numbers, cluster, logged, loose_jax, model
from tunix.rl import common
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_old_log_probs_are_at_temperature_one(temperature: float) -> None:
    """With its own loss, in the first pass over a rollout, where nothing has moved: at 0.7 tokens are clipped."""
    with loose_jax():
        made = cluster(model(), Numbers(), optax.sgd(0.0), 2, {"mini_batch_size": 2}, tokens=6, temperature=temperature)
        config = GRPOConfig(beta=0.0, num_generations=4, num_iterations=2, epsilon=0.01)
        learner = GRPOLearner(made, config, lambda completions, **_: [float(len(set(x.split()))) for x in completions])
        log = logged(made)
        learner.train([{"prompts": np.array(["3 4", "5"])}])
    share = log[0]["pg_clipfrac"]
    assert share == 0.0 if temperature == 1.0 else share > 0.1


def test_without_flash_attention_responses_of_a_pack_see_each_other() -> None:
    """And each token sees those after it: the last token of the second response moves the first response's log-probs."""
    segments = jnp.array([[1, 1, 1, 1, 2, 2, 2, 2]])
    positions = jnp.array([[0, 1, 2, 3, 0, 1, 2, 3]])

    def logp(last: int) -> np.ndarray:
        tokens = jnp.array([[3, 4, 5, 6, 7, 8, 9, last]])
        nothing, parts = jnp.zeros((1, 0), dtype="int32"), nnx.split(model())
        with loose_jax():
            found = common.compute_per_token_logps(
                *parts, nothing, tokens, pad_id=0, eos_id=2, segment_ids=segments, segment_positions=positions
            )
        return np.asarray(found)

    assert np.abs(logp(10) - logp(11))[0, :4].max() > 1e-6
