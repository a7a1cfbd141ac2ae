"""Sample responses from a transformers causal LM, and compute their log-probs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from gspo_torch import Routes
from torch import Tensor
from tqdm import tqdm

from integration.on_torch.sampling.reading import FASTEST, Reading
from integration.on_torch.sampling.tape import Tape
from integration.options.errors import TrainingFailure
from integration.shared.pace import QUIET
from integration.tasks.prompts import Prompter, left_pad
from integration.tasks.task import Example

WATCHED = 4
"""Responses of a rollout whose sampler log-probs are compared with the trainer's: the first to each of the first prompts."""


@dataclass(frozen=True)
class Responses:
    """N sampled responses, in the order of their prompts. P prompt columns (left-padded), T response columns."""

    prompt_ids: Tensor
    """[N, P] token ids."""
    prompt_mask: Tensor
    """[N, P] 1 on prompt tokens."""
    tokens: Tensor
    """[N, T] token ids."""
    mask: Tensor
    """[N, T] boolean, True on the response's own tokens, its ending token included."""
    logp: Tensor | None = None
    """[N, T] the sampler's own log-probs at its temperature, if it wrote them down; 0 in masked slots."""
    routes: Routes | None = None
    """Of the P + T columns: the experts that the sampler sent each token to, if it wrote them down."""
    watched: dict[int, Tensor] | None = None
    """Always of a few rows: [T] the sampler's log-probs, for `sampler_gap`. Not of `rows`."""

    def rows(self, index: Tensor) -> Responses:
        """The chosen rows, with columns that are padding in all of them cut away."""
        prompt_mask, mask = self.prompt_mask[index], self.mask[index]
        first = int(prompt_mask.any(0).long().argmax())
        last = max(1, int(mask.any(0).sum()))
        return Responses(
            self.prompt_ids[index, first:],
            prompt_mask[:, first:],
            self.tokens[index, :last],
            mask[:, :last],
            None if self.logp is None else self.logp[index, :last],
            None if self.routes is None else self.routes.rows(index).columns(first, prompt_mask.shape[1] + last),
        )


@dataclass(frozen=True)
class Sampler:
    """Draws responses at a temperature, with the model's KV cache where it is right."""

    model: Any
    prompter: Prompter
    max_new_tokens: int
    temperature: float
    device: torch.device
    stop_ids: Tensor
    keep_logp: bool = False
    """Write the log-probs of the drawn tokens down."""
    keep_routes: bool = False
    """Write down which experts each token went to."""
    reading: Reading = FASTEST
    """With a cache, with padding, or without: what `require_agreement` found."""

    @torch.no_grad()
    def draw(self, examples: list[Example], count: int, generator: torch.Generator | None) -> Responses:
        """`count` responses to each example, [len(examples) · count] in all; greedy if there is no generator."""
        pad_id = self.prompter.tokenizer.pad_token_id
        padded = left_pad([self.prompter.encode(e) for e in examples], pad_id)
        prompt_ids, prompt_mask = (torch.from_numpy(x).to(self.device) for x in padded)
        everyone = torch.arange(len(examples) * count, device=self.device)
        tokens = torch.full((len(everyone), self.max_new_tokens), pad_id, device=self.device)
        mask = torch.zeros(tokens.shape, dtype=torch.bool, device=self.device)
        watched = everyone[::count][:WATCHED]
        wanted = torch.isin(everyone, everyone if self.keep_logp else watched)
        tape = Tape(self.model, mask, temperature=self.temperature, logp=wanted, routes=self.keep_routes)
        batch = self.reading.growing(self.model, prompt_ids, prompt_mask)
        with tape.forward(everyone // count):
            logits = batch.begin(count)
        prompt_ids, prompt_mask = prompt_ids.repeat_interleave(count, 0), prompt_mask.repeat_interleave(count, 0)
        rows = everyone  # the responses that are still growing
        for column in tqdm(range(self.max_new_tokens), "sampling, longest response", unit="token", **QUIET):
            token = self._choose(logits, generator)
            tape.chose(rows, column, logits, token)
            tokens[rows, column], mask[rows, column] = token, True
            going = (~torch.isin(token, self.stop_ids)).nonzero()[:, 0]
            if len(going) == 0 or column + 1 == self.max_new_tokens:
                break
            rows, token = rows[going], token[going]
            with tape.forward(torch.full_like(everyone, -1).index_copy(0, rows, everyone[: len(rows)])):
                logits = batch.step(going, token)
        longest = int(mask.any(0).sum())
        logp = tape.logp()[:, :longest]
        return Responses(
            prompt_ids,
            prompt_mask,
            tokens[:, :longest],
            mask[:, :longest],
            logp if self.keep_logp else None,
            tape.routes(prompt_mask),
            {row: logp[row] for row in watched.tolist()},
        )

    def texts(self, responses: Responses) -> list[str]:
        """Text of the responses."""
        return self.prompter.decode(responses.tokens, responses.mask)

    def chooser(self, seed: int) -> torch.Generator:
        """Random numbers for `draw`."""
        return torch.Generator(self.device).manual_seed(seed)

    def _choose(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        if not bool(torch.isfinite(logits).all()):
            raise TrainingFailure("the model's logits are not finite any more")
        if generator is None:
            return logits.argmax(-1)
        # One uniform number a row against the cumulative distribution: on a CPU, multinomial's V random numbers a row cost
        # a fifth of the whole sampling. float64, so that adding up a vocabulary loses nothing.
        cumulative = torch.softmax(logits.float() / self.temperature, -1).double().cumsum(-1)
        uniform = torch.rand(len(logits), 1, dtype=torch.float64, device=logits.device, generator=generator)
        return torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


def predicting_states(model: Any, batch: Responses, reading: Reading = FASTEST) -> Tensor:
    """[N, T, H] what reaches the LM head at the positions that predict the responses' tokens."""
    return reading.states(model, batch.prompt_ids, batch.prompt_mask, batch.tokens, batch.mask)
