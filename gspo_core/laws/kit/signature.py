"""Arguments recognised by their names: trainers call the same four arrays by many names, and in another order."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .names import FOUR, Names

ALIASES: dict[str, str] = {
    "logp": "logp logps log_p log_prob log_probs logprob logprobs new_logp new_logps new_log_prob new_log_probs new_logprobs "
    "logp_new logps_new log_probs_new per_token_logps token_logps policy_logp policy_logps policy_log_probs current_logp "
    "current_logps current_logprobs curr_logprobs action_log_probs",
    "old_logp": "old_logp old_logps old old_log_prob old_log_probs old_logprob old_logprobs logp_old logps_old log_probs_old "
    "old_per_token_logps old_token_logps old_action_log_probs behavior_logp behavior_logprobs prev_logp prev_logprobs",
    "advantage": "advantage advantages adv advs a",
    "mask": "mask masks response_mask completion_mask loss_mask action_mask token_mask valid_mask valid response_masks",
    "ref_logp": "ref_logp ref_logps ref_log_prob ref_log_probs ref_logprobs ref_per_token_logps reference_logp",
    "sampler_logp": "sampler_logp sampler_logps rollout_logp rollout_log_prob rollout_log_probs rollout_logprobs",
    "denominator": "denominator num_sequences num_items num_items_in_batch normalizer normaliser global_batch_size",
    "logits": "logits",
    "tokens": "tokens token_ids input_ids labels targets completion_ids response_ids",
}
ROLE = {alias: role for role, aliases in ALIASES.items() for alias in aliases.split()}


def recognised(fn: Callable[..., Any], names: Names) -> Names:
    """The argument names of a loss, where its signature gives them away and `names` does not.

    By position stays what takes (logp, old_logp, advantage, mask) in this order and requires nothing else.

    >>> recognised(lambda old_log_prob, log_prob, advantages, response_mask: 0, Names()).logp
    'log_prob'
    """
    wanted = _parameters(fn)
    given = [getattr(names, role) for role in (*FOUR, "ref_logp", "sampler_logp", "denominator", "logits")]
    if any(given) or not wanted:
        return names
    found: dict[str, str] = {}
    for parameter in wanted:
        role = ROLE.get(parameter.name.lower())
        required = parameter.default is inspect.Parameter.empty
        if role and role not in found and (required or role in FOUR):
            found[role] = parameter.name
    if not {*FOUR} <= {*found, *(["logp"] if {"logits", "tokens"} <= {*found} else [])}:
        return names
    plain = [ROLE.get(p.name.lower()) for p in wanted if p.kind is not p.KEYWORD_ONLY][:4] == list(FOUR)
    if plain and set(found) == set(FOUR):
        return names
    return replace(names, **found, needs_denominator="denominator" in found)  # type: ignore[arg-type]  # `found` has fields of Names


def missing(fn: Callable[..., Any], names: Names) -> list[str]:
    """Required parameters that the kit has nothing to pass for."""
    passed = {getattr(names, role) for role in ALIASES}
    rest = [p for p in _parameters(fn) if p.name not in passed and p.default is p.empty]
    keyword = [p.name for p in rest if p.kind is p.KEYWORD_ONLY]
    by_position = [p.name for p in rest if p.kind is not p.KEYWORD_ONLY]
    taken = sum(getattr(names, role) is None for role in FOUR) if not names.logits else 0
    return by_position[taken:] + keyword


def said(names: Names) -> str:
    """How a loss is called, in words; empty for the plain four arguments by position.

    >>> said(Names(logp="new", old_logp="old", advantage="adv", mask="m"))
    'Arguments: new = log π, old = log π_old, adv = A, m = mask'
    """
    words = {"logp": "log π", "old_logp": "log π_old", "advantage": "A", "mask": "mask", "logits": "logits", "tokens": "tokens"}
    words |= {"ref_logp": "log π_ref", "sampler_logp": "log π_sampler", "denominator": "the number to divide by"}
    found = [f"{getattr(names, role)} = {what}" for role, what in words.items() if getattr(names, role)]
    found += ["the mask as 0.0 and 1.0"] if names.float_mask else []
    found += ["one advantage per token"] if names.token_advantages else []
    return f"Arguments: {', '.join(found)}" if found else ""


def _parameters(fn: Callable[..., Any]) -> list[inspect.Parameter]:
    """Named parameters that are not bound yet; empty where Python cannot tell."""
    try:
        found = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return []
    bound = getattr(fn, "keywords", {})
    return [p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY) and p.name not in bound]
