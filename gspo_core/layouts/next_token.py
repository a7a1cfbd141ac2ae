"""From packed rows to next-token prediction: which slots predict a token of the policy, and which token that is.

The hidden state of slot t predicts the token of slot t + 1. In a row of whole sequences this shift by one must not cross the
border between two sequences, and the last slot of a sequence predicts nothing:

    slot              0   1   2   3   4   5   6            two sequences, cu_seqlens = [0, 4, 7]
    token             p   p   a   b   p   c   d            p: prompt, a … d: tokens of the policy
    predicts          –   a   b   –   c   d   –
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gspo_core._lib.array import arange_like, is_integer, namespace, shape_of, signed, values_at_hand
from gspo_core.types import Array, Namespace

from .packed import Packed


@dataclass(frozen=True, eq=False)
class NextTokens:
    """Prediction targets of the slots of a packed row; made by `next_tokens`.

    All arrays are [T], so that shapes are static under jit.

    >>> import numpy as np
    >>> found = next_tokens(np.array([7, 8, 9]), np.array([0, 3]), prompt_lengths=np.array([1]))
    >>> found.tokens.tolist(), found.predicts.tolist(), found.shifted(np.array([0.0, -1.5, -2.5])).tolist()
    ([8, 9, 0], [True, True, False], [-1.5, -2.5, 0.0])
    """

    layout: Packed
    """The slots that predict a token of the policy, each in its sequence's segment; all other slots are masked."""
    tokens: Array
    """[T] the token id that the slot predicts, which is the token of the next slot; 0 in masked slots."""

    @property
    def predicts(self) -> Array:
        """[T] boolean: the slot predicts a token of the policy. Their indices are `nonzero` of it, where shapes may vary."""
        return self.layout.valid

    def shifted(self, x: Array) -> Array:
        """[T] an array x of the tokens, such as the sampler's log-probs or turn ids, at the slots that predict the tokens.

        Args:
            x: [T] of any dtype; x[t] belongs to the token of slot t.

        Returns: [T] x[t + 1] at slot t, 0 in masked slots.

        Raises: TypeError if x is no array of the layout's library, ValueError if it has another shape.
        """
        xp = namespace(segment_ids=self.layout.segment_ids, x=x)
        if shape_of(x) != self.layout.shape:
            raise ValueError(f"x: expected shape {list(self.layout.shape)}, got {list(shape_of(x))}")
        return _shifted(xp, self.predicts, x)


def next_tokens(
    token_ids: Array, cu_seqlens: Array, *, mask: Array | None = None, prompt_lengths: Array | None = None
) -> NextTokens:
    """Predicting slots, target tokens and segments of a packed row of whole sequences, prompt and response.

    A slot predicts if the next slot belongs to the same sequence and holds a token of the policy. Thus no slot predicts across
    a border, the last slot of a sequence and slots behind the last sequence predict nothing, and the last slot of a prompt
    predicts the first token of the response. A token at the very beginning of its sequence is predicted by no slot, and is not
    part of the layout. Sequences may be empty.

    Args:
        token_ids: [T] integer ids of the row.
        cu_seqlens: [N + 1] integers, ascending: sequence i has the slots [cu_seqlens[i], cu_seqlens[i+1]). Slots before the
            first offset and from the last one on are padding.
        mask: [T] boolean, True where the policy produced the token of the slot (not where it is predicted).
        prompt_lengths: [N] integers of at least 0, the number of tokens at the beginning of each sequence that the policy did
            not produce. Pass either this or `mask`.

    Returns: `NextTokens`: hidden states [T, H], `tokens` and `layout` go into `token_logp` as they are.

    Raises: TypeError for a wrong dtype, ValueError for a wrong shape and if not exactly one of `mask` and `prompt_lengths` is
    given, naming the argument; ValueError for offsets and prompt lengths out of range. Those that are traced or on another
    device are not read.

    >>> import numpy as np
    >>> from gspo_core import GSPO, policy_loss
    >>> ids = np.array([5, 6, 1, 2, 7, 3, 4])  # prompts 5 6 and 7, responses 1 2 and 3 4
    >>> row = next_tokens(ids, np.array([0, 4, 7]), prompt_lengths=np.array([2, 1]))
    >>> row.tokens.tolist(), row.layout.segment_ids.tolist()
    ([0, 1, 2, 0, 3, 4, 0], [-1, 0, 0, -1, 1, 1, -1])
    >>> logp = np.where(row.layout.segment_ids < 0, 0.0, -2.0)  # token_logp(..., row.tokens, layout=row.layout)
    >>> policy_loss(GSPO, logp, logp, np.array([1.0, -1.0]), row.layout).logp_grad.tolist()
    [0.0, -0.25, -0.25, 0.0, 0.25, 0.25, 0.0]
    """
    xp = namespace(token_ids=token_ids, cu_seqlens=cu_seqlens)
    if not is_integer(xp, token_ids):
        raise TypeError(f"token_ids: expected integers, got dtype {token_ids.dtype}")
    if len(shape_of(token_ids)) != 1:
        raise ValueError(f"token_ids: expected shape [T], got {list(shape_of(token_ids))}; flatten a batch of rows first")
    if (mask is None) == (prompt_lengths is None):
        raise ValueError(
            "mask: expected either mask or prompt_lengths, to know which tokens the policy produced; got "
            + ("neither" if mask is None else "both")
        )
    num_tokens = shape_of(token_ids)[0]
    whole = Packed.from_cu_seqlens(cu_seqlens, num_tokens)
    if mask is not None:
        own = Packed.from_cu_seqlens(cu_seqlens, num_tokens, mask)
    else:
        own = _without_prompts(xp, whole, cu_seqlens, prompt_lengths)
    upcoming = xp.roll(own.segment_ids, -1)
    # The last slot has no next one: roll gives it the first.
    inside = arange_like(xp, num_tokens, upcoming) < num_tokens - 1
    predicts = inside & (upcoming >= 0) & (upcoming == whole.segment_ids)
    return NextTokens(Packed(xp.where(predicts, upcoming, -1), own.num_sequences), _shifted(xp, predicts, token_ids))


def _shifted(xp: Namespace, predicts: Array, x: Array) -> Array:
    """[T] the entry of the next slot where one is predicted, 0 elsewhere."""
    return xp.where(predicts, xp.roll(x, -1), xp.zeros_like(x))


def _without_prompts(xp: Namespace, whole: Packed, cu_seqlens: Array, prompt_lengths: Array) -> Packed:
    """The layout of the responses' own slots."""
    namespace(prompt_lengths=prompt_lengths, cu_seqlens=cu_seqlens)
    if not is_integer(xp, prompt_lengths):
        raise TypeError(f"prompt_lengths: expected integers, got dtype {prompt_lengths.dtype}")
    if shape_of(prompt_lengths) != (whole.num_sequences,):
        raise ValueError(f"prompt_lengths: expected shape [{whole.num_sequences}], got {list(shape_of(prompt_lengths))}")
    if whole.num_sequences == 0:
        return whole
    offsets, prompts = (signed(xp, x) for x in (cu_seqlens, prompt_lengths))
    _check_prompts(values_at_hand(xp, prompts))
    first = offsets[:-1] + xp.astype(prompts, offsets.dtype)
    owner = xp.where(whole.valid, whole.segment_ids, 0)
    of_policy = arange_like(xp, whole.shape[0], offsets) >= xp.take(first, owner, axis=0)
    return Packed(xp.where(whole.valid & of_policy, owner, -1), whole.num_sequences)


def _check_prompts(prompts: Any) -> None:
    """ValueError for prompt lengths below 0, where their values are known."""
    if prompts is not None and (prompts < 0).any():
        raise ValueError(f"prompt_lengths: expected numbers of at least 0, got {int(prompts.min())}")
