"""`GRPOTrainer` with the loss of an objective. batch.py reads TRL's batches, head.py scores tokens, report.py measures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer

from gspo_core import Padded
from gspo_core.kl import KLTerm
from gspo_core.objectives import LinearLoss
from gspo_torch import linear_policy_loss, token_logp

from .batch import Batch, advantage_of, chosen, correct, layout_of, normalised, rows_to_run
from .config import GSPOConfig
from .head import add_states
from .report import Report


class GSPOTrainer(GRPOTrainer):
    """TRL's `GRPOTrainer`, training `args.objective`. Arguments and everything that is not named here are TRL's.

    Exact for any number of micro-batches, ranks and empty responses: an optimizer step is divided by the objective's count
    over all of its responses. Responses without an advantage are not run through the model in updates, unless a KL term, an
    entropy bonus, the balancing loss of a mixture or `log_entropy` needs them. Logits are never held.

    For advantages of your own, per response [N], per turn [N, K] or per token [N, T], override `advantages`.

    Raises: TypeError for other args than a GSPOConfig, ValueError for a vision-language model, for DeepSpeed's stage 3 and for
    a model whose logits are not a linear layer of its last hidden states; and the errors of TRL.
    """

    _tag_names = ["trl", "gspo"]  # noqa: RUF012  # TRL reads a list
    _name = "GSPO"
    _paper = {"title": "Group Sequence Policy Optimization", "id": "2507.18071"}  # noqa: RUF012

    def __init__(self, model: Any, reward_funcs: Any, args: GSPOConfig, *rest: Any, **named: Any) -> None:
        if not isinstance(args, GSPOConfig):
            raise TypeError(f"args: expected a GSPOConfig, got {type(args).__name__}")
        super().__init__(model, reward_funcs, args, *rest, **named)
        if self._is_vlm:
            raise ValueError(f"model: expected a language model, got the vision-language model {type(self.model).__name__}")
        if getattr(self.accelerator.state.deepspeed_plugin, "zero_stage", 0) == 3:
            raise ValueError("deepspeed: expected ZeRO stage 0, 1 or 2, got 3, which has not been checked; take FSDP2")
        for network in [self.model, self.ref_model]:
            if network is not None:
                inner = self.accelerator.unwrap_model(network)
                add_states(inner.get_base_model() if hasattr(inner, "peft_config") else inner, self.temperature)
        self.report = Report(args.objective)
        self._denominator: Tensor | None = None

    def advantages(self, batch: Batch, rewards: Tensor) -> Tensor:
        """[N], [N, K] or [N, T] advantages of this rank's responses; override it to have your own.

        Args:
            batch: `completion_ids`, `completion_mask` [N, T], `advantages` [N] as TRL or `args.normaliser` makes them, ...
            rewards: [N] weighted sums of the reward functions, NaN where none could judge the response.
        """
        found: Tensor = batch["advantages"]
        return found

    def _calculate_rewards(self, *args: Any) -> Tensor:
        per_function: Tensor = super()._calculate_rewards(*args)
        total = (per_function * self.reward_weights.to(per_function.device)).nansum(1)
        self._rewards = torch.where(per_function.isnan().all(1), torch.nan, total)  # of all ranks
        return per_function

    def _generate_and_score_completions(self, inputs: list[Any]) -> Batch:
        batch: Batch = super()._generate_and_score_completions(inputs)
        own = slice(self.accelerator.process_index * len(inputs), (self.accelerator.process_index + 1) * len(inputs))
        if self.args.normaliser is not None:
            group = self.num_generations if self.model.training else self.num_generations_eval
            batch["advantages"] = normalised(self._rewards, group, self.args.normaliser)[own]
        batch["advantages"] = self.advantages(batch, self._rewards[own])
        if self.args.correction is not None:
            self.report.add_metrics(self.model.training, correct(batch, self.args.correction))
        return batch

    def _prepare_inputs(self, generation_batch: Any) -> Batch:
        inputs: Batch = super()._prepare_inputs(generation_batch)
        steps, at = self.args.gradient_accumulation_steps, self._step % self.args.steps_per_generation
        if self.model.training and self._step % steps == 0:  # an optimizer step begins: count all of its responses
            parts = self._buffered_inputs[at : at + steps]
            count = sum(self.args.objective.count(layout_of(self.args.objective, part)) for part in parts)
            mean = self.accelerator.reduce(count.float(), "mean")  # the gradients of ranks are averaged
            self._denominator = torch.where(mean > 0, mean, 1.0)
        return inputs

    def _get_per_token_logps_and_entropies(
        self, model: Any, ids: Tensor, mask: Tensor, width: int, batch_size: int | None = None, **others: Any
    ) -> tuple[Tensor, None, None]:
        """Old and reference log-probs, by our head; without a gradient, as TRL asks for them."""
        if unknown := [name for name, value in others.items() if value not in (None, False)]:
            raise ValueError(f"inputs: expected text alone, got {', '.join(unknown)}")
        rows = batch_size or len(ids)
        return (
            torch.cat([self._logp(model, *part, width) for part in zip(ids.split(rows), mask.split(rows), strict=True)]),
            None,
            None,
        )

    def _logp(self, model: Any, ids: Tensor, mask: Tensor, width: int) -> Tensor:
        layout = Padded(mask[:, -width:] > 0)

        def scored(hidden: Tensor, lm_head: Tensor, options: dict[str, Any]) -> Tensor:
            return token_logp(hidden[:, -width - 1 : -1], lm_head, ids[:, -width:], layout=layout, **options)

        with self.accelerator.autocast():
            logp: Tensor = model(input_ids=ids, attention_mask=mask, states=scored)["loss"]
        return logp

    def _compute_loss(self, model: Any, inputs: Batch) -> Tensor:
        rows = None if self._needs_every_row else rows_to_run(inputs)
        value, aux_loss, loss = self._run(model, inputs if rows is None else chosen(inputs, rows))
        training = self.model.training
        self.report.add(training, loss, inputs, rows)
        if aux_loss is not None:
            value = value + self.router_aux_loss_coef * aux_loss / (self.args.gradient_accumulation_steps if training else 1)
            self._metrics["train" if training else "eval"]["aux_loss"].append(
                float(self.accelerator.gather(aux_loss.detach()).mean())
            )
        return value

    @property
    def _needs_every_row(self) -> bool:
        """Whether something in the loss does not know the advantage, or is to be logged of all responses."""
        args = self.args
        return args.kl is not None or args.entropy_coef != 0.0 or self.aux_loss_enabled or args.log_entropy

    def _run(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor | None, LinearLoss]:
        """The loss that autograd knows, the balancing loss of a mixture, and the loss with all that was measured."""
        args, tokens, old = self.args, batch["completion_ids"], batch.get("old_per_token_logps")
        kl = None if args.kl is None else KLTerm(args.kl, batch["ref_per_token_logps"], args.beta)
        width = tokens.shape[1]
        results: list[LinearLoss] = []

        def scored(hidden: Tensor, lm_head: Tensor, options: dict[str, Any]) -> Tensor:
            loss = linear_policy_loss(
                args.objective, hidden[:, -width - 1 : -1], lm_head, tokens, old, advantage_of(args.objective, batch),
                layout_of(args.objective, batch), denominator=self._denominator if self.model.training else None,
                on_policy=old is None, kl=kl, entropy_bonus=args.entropy_coef or None,
                return_logp=True, return_entropy=args.log_entropy, budget_bytes=args.budget_bytes, **options,
            )  # fmt: skip
            results.append(loss)
            return loss.value  # type: ignore[no-any-return]  # Loss holds arrays of any library

        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
        with self.accelerator.autocast():
            routers = {"output_router_logits": True} if self.aux_loss_enabled else {}
            found = model(input_ids=ids, attention_mask=mask, states=scored, **routers)
        value: Tensor = found["loss"]
        return value, found.get("aux_loss"), results[-1]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's log, with our metrics as gspo/<name of summary>."""
        training = self.model.training
        for name, value in self.report.take(training, self.accelerator).items():
            self._metrics["train" if training else "eval"][name].append(value)
        super().log(logs, start_time)
