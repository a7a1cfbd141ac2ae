"""Sample responses from a transformers causal LM, and compute their log-probs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from gspo_torch import Routes
from torch import Tensor
from tqdm import tqdm

from integration.on_torch.sampling.noise import Noise
from integration.on_torch.sampling.reading import FASTEST, Reading
from integration.on_torch.sampling.tape import Tape
from integration.options.errors import TrainingFailure
from integration.shared.pace import QUIET
from integration.shared.ranks import OneProcess, Ranks, part_of, together
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

    def on(self, device: torch.device) -> Responses:
        """The same on a device."""
        logp, routes, watched = self.logp, self.routes, self.watched
        prompts = self.prompt_ids.to(device), self.prompt_mask.to(device)
        return Responses(
            *prompts,
            self.tokens.to(device),
            self.mask.to(device),
            None if logp is None else logp.to(device),
            None if routes is None else Routes(routes.experts.to(device), routes.routed.to(device), routes.num_experts),
            None if watched is None else {row: values.to(device) for row, values in watched.items()},
        )

    def one_token(self, row: int) -> Responses:
        """A response's first token alone, behind the prompt's last one."""
        one = self.rows(torch.tensor([row], device=self.tokens.device))
        width = one.prompt_mask.shape[1]
        return Responses(
            one.prompt_ids[:, -1:], one.prompt_mask[:, -1:], one.tokens[:, :1], one.mask[:, :1],
            None if one.logp is None else one.logp[:, :1],
            None if one.routes is None else one.routes.columns(width - 1, width + 1),
        )  # fmt: skip

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


class Drawing(Protocol):
    """What training needs of a sampler: the trainer's own (`Sampler`), one that differs from it (`Engine`), or `VLLMEngine`."""

    def draw(self, examples: list[Example], count: int, generator: torch.Generator) -> Responses:
        """`count` responses to each example, in the order of the examples, drawn from the policy as it is now.

        All randomness is the generator's, so that a run can be repeated. An engine whose probabilities are not exactly the
        trainer's writes its log-probs of the drawn tokens into `Responses.logp`, at the run's temperature.
        """


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

    ranks: Ranks = field(default_factory=OneProcess)
    """The processes that share the prompts; each has all responses."""
    whole: Callable[[], AbstractContextManager[None]] = nullcontext
    """Around sampling: puts the weights in their places, if they are shared out."""

    def draw(self, examples: list[Example], count: int, generator: torch.Generator | None) -> Responses:
        """`count` responses to each example, [len(examples) · count] in all; greedy if there is no generator.

        The random numbers of a response depend on its row and on the state of the generator, not on which process draws it.
        """
        pad_id = self.prompter.tokenizer.pad_token_id
        padded = left_pad([self.prompter.encode(e) for e in examples], pad_id)
        prompt_ids, prompt_mask = (torch.from_numpy(x).to(self.device) for x in padded)
        noise = None if generator is None else Noise.drawn_from(generator, len(examples) * count)
        own = part_of(len(examples), self.ranks)

        def part() -> Responses | None:
            if not len(prompt_ids[own]):
                return None
            drawn = self._grow(prompt_ids[own], prompt_mask[own], count, noise and noise.beginning_at(own.start * count))
            return drawn if self.ranks.count == 1 else drawn.on(torch.device("cpu"))

        with self.whole():
            drawn = [responses for responses in together(self.ranks, part) if responses is not None]
        return drawn[0] if self.ranks.count == 1 else joined(drawn, pad_id).on(self.device)

    @torch.no_grad()
    def _grow(self, prompt_ids: Tensor, prompt_mask: Tensor, count: int, noise: Noise | None) -> Responses:
        """`count` responses to each prompt [n, P]."""
        pad_id = self.prompter.tokenizer.pad_token_id
        everyone = torch.arange(len(prompt_ids) * count, device=self.device)
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
            token = self._choose(logits, rows, noise)
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

    def _choose(self, logits: Tensor, rows: Tensor, noise: Noise | None) -> Tensor:
        if not bool(torch.isfinite(logits).all()):
            raise TrainingFailure("the model's logits are not finite any more")
        if noise is None:
            return logits.argmax(-1)
        # One uniform number a row against the cumulative distribution: on a CPU, multinomial's V random numbers a row cost
        # a fifth of the whole sampling. float64, so that adding up a vocabulary loses nothing.
        cumulative = torch.softmax(logits.float() / self.temperature, -1).double().cumsum(-1)
        uniform = noise.next()[rows]
        return torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


def joined(parts: list[Responses], pad_id: int) -> Responses:
    """The parts that processes have drawn, one below the other."""
    width = max(part.tokens.shape[1] for part in parts)

    def below(name: str, filling: float) -> Any:
        rows = [getattr(part, name) for part in parts]
        if rows[0] is None:
            return None
        wide = [torch.nn.functional.pad(x, (0, width - x.shape[1]), value=filling) for x in rows]
        return torch.cat(wide)

    prompt_ids, prompt_mask = (torch.cat([getattr(part, name) for part in parts]) for name in ("prompt_ids", "prompt_mask"))
    tokens, mask, logp = below("tokens", pad_id), below("mask", False), below("logp", 0.0)
    routes = None
    if all(part.routes is not None for part in parts):
        there = torch.cat([prompt_mask > 0, mask], 1).split([len(part.tokens) for part in parts])
        routes = Routes.cat([part.routes.fit(own) for part, own in zip(parts, there, strict=True) if part.routes])
    watched: dict[int, Tensor] = {}
    first = 0
    for part in parts:
        for row, values in (part.watched or {}).items():
            watched[first + row] = torch.nn.functional.pad(values, (0, width - len(values)))
        first += len(part.tokens)
    return Responses(prompt_ids, prompt_mask, tokens, mask, logp, routes, dict(sorted(watched.items())[:WATCHED]))


def predicting_states(model: Any, batch: Responses, reading: Reading = FASTEST) -> Tensor:
    """[N, T, H] what reaches the LM head at the positions that predict the responses' tokens."""
    return reading.states(model, batch.prompt_ids, batch.prompt_mask, batch.tokens, batch.mask)
