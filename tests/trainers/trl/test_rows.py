"""Which rows are run, whose advantages they have, and what is logged."""

from typing import Any

import numpy as np
import pytest
import torch
from gspo_torch import linear_policy_loss
from gspo_torch.trainers.trl import GSPOTrainer, trainer
from support.trainers.trl_runs import GROUP, ROWS, STEPS, logged, ours, parameters, responses

from gspo_core.advantages import Centred, LeaveOneOut, group_advantages
from gspo_core.objectives import GRPO, GSPO, GSPO_TOKEN, Clip, Objective, SequenceMean, Turn


class Counting(GSPOTrainer):
    """Counts the rows that the model sees with a gradient."""

    rows = 0

    def _run(self, model: Any, batch: Any) -> Any:
        self.rows += len(batch["completion_ids"])
        return super()._run(model, batch)


def same(a: Any, b: Any) -> None:
    """Both runs end with the same parameters."""
    others = parameters(b)
    for name, values in parameters(a).items():
        np.testing.assert_allclose(values, others[name], atol=1e-6, rtol=1e-5, err_msg=name)


def test_rows_without_an_advantage_are_not_run_and_change_nothing() -> None:
    short, whole = ours(GSPO, Counting), ours(GSPO, Counting, log_entropy=True)
    live = sum(row["reward"] != 0.25 for row in responses(False, False))
    assert whole.rows == ROWS * STEPS
    assert short.rows <= live < whole.rows
    same(short, whole)
    assert logged(whole, "gspo/entropy_per_token") or any("entropy" in key for key in whole.state.log_history[0])


def test_a_step_without_any_advantage_still_runs_one_row() -> None:
    """DDP and FSDP wait for every rank: the model is run with a gradient of zero."""

    class Nothing(Counting):
        def advantages(self, batch: Any, rewards: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(batch["advantages"])

    still, start = ours(GSPO, Nothing), ours(GSPO, lr=0.0)
    assert still.rows == STEPS
    same(still, start)
    assert logged(still, "gspo/zero_advantage") == [1.0] * STEPS


def test_a_normaliser_of_ours() -> None:
    seen: list[torch.Tensor] = []

    class Looking(GSPOTrainer):
        def advantages(self, batch: Any, rewards: torch.Tensor) -> torch.Tensor:
            seen.append(batch["advantages"])
            return super().advantages(batch, rewards)

    rewards = np.array([row["reward"] for row in responses(False, False)])
    for normaliser in (Centred(), LeaveOneOut()):
        ours(GSPO, Looking, normaliser=normaliser)
        expected = group_advantages(rewards, np.arange(len(rewards)) // GROUP, normaliser)
        np.testing.assert_allclose(seen[-1], expected, atol=1e-6)


def test_a_response_that_nobody_could_judge_is_not_in_its_group() -> None:
    seen: list[torch.Tensor] = []

    class Looking(GSPOTrainer):
        def advantages(self, batch: Any, rewards: torch.Tensor) -> torch.Tensor:
            seen.append(torch.stack([rewards, batch["advantages"]]))
            return super().advantages(batch, rewards)

    ours(GSPO, Looking, normaliser=Centred(), judged=lambda reward, **_: [None, *reward[1:]])
    rewards, advantages = seen[-1].numpy()
    assert np.isnan(rewards[0])
    assert not np.isnan(rewards[1:]).any()
    np.testing.assert_allclose(advantages[:GROUP], [0, *(rewards[1:GROUP] - rewards[1:GROUP].mean())], atol=1e-6)


def test_advantages_per_token_and_per_turn() -> None:
    """Equal token advantages are the response's; others train in another way."""

    class PerToken(GSPOTrainer):
        factor = 0.0

        def advantages(self, batch: Any, rewards: torch.Tensor) -> torch.Tensor:
            ramp = 1 + self.factor * torch.arange(batch["completion_ids"].shape[1])
            return batch["advantages"][:, None] * ramp

    class Ramp(PerToken):
        factor = 0.3

    equal, plain, ramp = ours(GSPO_TOKEN, PerToken), ours(GSPO_TOKEN), ours(GSPO_TOKEN, Ramp)
    same(equal, plain)
    with pytest.raises(AssertionError):
        same(ramp, plain)
    with pytest.raises(ValueError, match=r"^advantage"):
        ours(GSPO, PerToken)


def test_turns_are_the_runs_between_the_tokens_of_tools() -> None:
    turns = Objective(Turn(), Clip(0.2, 0.2), SequenceMean())

    class PerTurn(GSPOTrainer):
        def advantages(self, batch: Any, rewards: torch.Tensor) -> torch.Tensor:
            return batch["advantages"][:, None].expand(-1, 4)

    same(ours(turns, PerTurn, tools=True), ours(turns, tools=True))
    with pytest.raises(AssertionError):
        same(ours(turns, tools=True), ours(GSPO.with_clip(0.2, 0.2), tools=True))


def test_metrics_and_sentences_are_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    trained = ours(GRPO, beta=0.01)
    assert len(logged(trained, "gspo/log_s_rms")) == STEPS
    assert all(np.isfinite(logged(trained, "gspo/clip_active_tokens")))
    assert any(key.startswith("gspo/reference") or "ref" in key for key in trained.state.log_history[0])
    said = [record.message for record in caplog.records if "trainers.trl" in record.name]
    assert any("FAR_APART" in message for message in said), "these steps are large"
    assert len(said) == len(set(said)), "each sentence once"


def test_an_evaluation_has_its_own_numbers_and_divides_by_its_own_responses() -> None:
    trained = ours(GSPO, eval_strategy="steps", eval_steps=2, per_device_eval_batch_size=ROWS)
    rows = [row for row in trained.state.log_history if "eval_loss" in row]
    assert len(rows) == 2
    assert all(abs(row["eval_loss"] - row["eval_gspo/loss"]) < 1e-4 for row in rows)
    assert all(row["eval_gspo/sequences"] == ROWS for row in rows)
    assert len(logged(trained, "gspo/sequences")) == STEPS


def test_the_budget_of_logits_reaches_the_loss_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []

    def looking(*arguments: Any, **options: Any) -> Any:
        given.append(options["budget_bytes"])
        return linear_policy_loss(*arguments, **options)

    monkeypatch.setattr(trainer, "linear_policy_loss", looking)
    large = ours(GSPO)
    assert set(given) == {2**26}, "the default"
    given.clear()
    same(large, ours(GSPO, budget_bytes=0))
    assert set(given) == {0}
