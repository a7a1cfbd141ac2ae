"""One bad argument in a valid call: a TypeError or ValueError that begins with an argument's name, or the right answer.

Never an error from inside (an index, a broadcast, an attribute), never a warning, and never a value that is not that of the
valid call: a bad argument that is accepted must be an option's other legal value, and those are in `LEGAL`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from support.errors.names import begins_with_an_argument, names_of_arguments
from support.fuzz.calls import Call, calls

from gspo_core import Clip, Padded

SCALARS: list[Any] = [
    None, True, -1, 0, 7, -0.5, 0.5, 1e30, math.nan, math.inf, -math.inf, 10**400, "", "gspo", "\ud800", b"x", [], [1.0], (),
    {}, {1}, object(), Padded, Clip, len, 1j, np.float64(-1), np.array(math.nan), np.array(["x"]), np.array([None]),
]  # fmt: skip
"""What anybody may hand in for anything."""

LEGAL: dict[str, list[str]] = {
    "Capped cap": ["0.5", "1e+30", "7"],
    "Clip high": ["0", "0.5", "1e+30", "7"],
    "Clip low": ["0", "0.5"],
    "KLTerm coefficient": ["-0.5", "-1", "0", "0.5", "1e+30", "7", "np.float64(-1.0)"],
    "Objective surrogate": ["<built-in function len>"],
    "Packed num_sequences": ["0", "7"],
    "Packed segment_ids": ["another library", "longer", "shorter", "turned"],
    "Packed.from_cu_seqlens cu_seqlens": ["shorter"],
    "Packed.from_cu_seqlens mask": ["None"],
    "Padded mask": ["another library", "longer", "shorter", "turned"],
    "Pilot.measure advantage": ["another kind", "floats"],
    "Reject drop": ["True"],
    "Reject high": ["1e+30", "7", "inf"],
    "Reject low": ["0", "0.5"],
    "TokensInside high": ["1e+30", "7", "inf"],
    "TokensInside low": ["0", "0.5"],
    "TotalVariation either_side": ["True"],
    "TotalVariation high": ["0.5"],
    "TotalVariation low": ["0.5"],
    "Turns num_turns": ["7"],
    "Weighted weights": ["another kind", "floats"],
    "batch_metrics advantage": ["another kind", "floats"],
    "clip_range_for high_over_low": ["0.5", "1e+30", "7"],
    "clip_range_for target": ["0.5"],
    "diagnose objective": ["None"],
    "future_kl_advantages advantage": ["another kind", "floats"],
    "future_kl_advantages half_life": ["0.5", "1e+30", "7"],
    "future_kl_advantages high": ["1e+30", "7"],
    "future_kl_advantages low": ["0.5"],
    "future_kl_advantages safety": ["0.5", "1e+30", "7", "inf"],
    "group_advantages group_ids": ["a list"],
    "group_advantages rewards": ["a list", "another kind", "floats"],
    "group_metrics advantage": ["floats"],
    "gspo_jax.kl_penalty denominator": ["0.5", "1e+30", "7", "None"],
    "gspo_jax.policy_loss advantage": ["another kind", "floats"],
    "gspo_jax.policy_loss denominator": ["0.5", "1e+30", "7", "None"],
    "gspo_torch.policy_loss advantage": ["another kind", "floats"],
    "gspo_torch.policy_loss denominator": ["0.5", "1e+30", "7", "None"],
    "inside_region advantage": ["another kind", "floats"],
    "kept_advantages advantage": ["another kind", "floats"],
    "linear_policy_loss advantage": ["another kind", "floats"],
    "linear_policy_loss bias": ["None", "floats"],
    "linear_policy_loss budget_bytes": ["0", "7"],
    "linear_policy_loss denominator": ["0.5", "1e+30", "7", "None"],
    "linear_policy_loss entropy_bonus": ["-0.5", "-1", "0", "0.5", "1e+30", "7", "None", "np.float64(-1.0)"],
    "linear_policy_loss hidden": ["floats"],
    "linear_policy_loss kl": ["None"],
    "linear_policy_loss lm_head": ["floats"],
    "linear_policy_loss return_entropy": ["True"],
    "linear_policy_loss return_logp": ["True"],
    "linear_policy_loss soft_cap": ["0.5", "1e+30", "7", "None"],
    "linear_policy_loss temperature": ["0.5", "1e+30", "7"],
    "mismatch_report advantage": ["another kind", "floats"],
    "plan group_ids": ["a list"],
    "plan rewards": ["a list", "another kind", "floats"],
    "policy_loss advantage": ["another kind", "floats"],
    "policy_loss allow_low_precision": ["True"],
    "policy_loss denominator": ["0.5", "1e+30", "7", "None"],
    "token_covariance advantage": ["another kind", "floats"],
    "token_logp bias": ["None", "floats"],
    "token_logp hidden": ["floats"],
    "token_logp layout": ["None"],
    "token_logp lm_head": ["floats"],
    "token_logp soft_cap": ["0.5", "1e+30", "7", "None"],
    "token_logp static": ["True"],
    "token_logp temperature": ["0.5", "1e+30", "7"],
    "token_scores bias": ["None", "floats"],
    "token_scores entropy_gradient": ["True"],
    "token_scores hidden": ["floats"],
    "token_scores layout": ["None"],
    "token_scores lm_head": ["floats"],
    "token_scores soft_cap": ["0.5", "1e+30", "7", "None"],
    "token_scores static": ["True"],
    "token_scores sum_pi_squared": ["True"],
    "token_scores temperature": ["0.5", "1e+30", "7"],
    "top_share share": ["0.5"],
    "top_share values": ["floats"],
    "with_clip high": ["0", "0.5", "1e+30", "7"],
    "with_clip low": ["0", "0.5"],
    "within_second_moment threshold": ["0.5", "1e+30", "7"],
}
"""What an argument may be as well: other legal values, and arrays of another size where nothing else fixes the size."""

BENDS: dict[str, Callable[[np.ndarray, Callable[..., Any]], Any]] = {
    "shorter": lambda x, made: made(x[..., :-1]),
    "an axis before": lambda x, made: made(x[None]),
    "an axis behind": lambda x, made: made(x[..., None]),
    "a number": lambda x, made: made(x.sum()),
    "longer": lambda x, made: made(np.concatenate([x, x])),
    "complex": lambda x, made: made(x.astype(complex)),
    "turned": lambda x, made: made(x.T if x.ndim > 1 else x[:0]),
    "a list": lambda x, _: x.tolist(),
    "objects": lambda x, _: x.astype(object),
    "text": lambda x, _: x.astype(str),
    "another library": lambda x, made: torch.tensor(x) if made is np.array else x,
    "floats": lambda x, made: made(x.astype(np.float16 if x.dtype.kind == "f" else np.float64)),
    "another kind": lambda x, made: made(x.astype(np.int8 if x.dtype.kind in "fb" else bool)),
}
"""Something like a good array, and not it."""


def bent(rng: np.random.Generator, good: Any) -> tuple[str, Any]:
    """A bad argument in place of a good one, and what it is called."""
    if rng.random() < 0.05:
        return "its class", type(good)
    if not isinstance(good, (np.ndarray, torch.Tensor, jax.Array)) or rng.random() < 0.3:
        value = SCALARS[rng.integers(0, len(SCALARS))]
        return "10**400" if value is SCALARS[11] else repr(value), value
    label = list(BENDS)[rng.integers(0, len(BENDS))]
    made: Callable[..., Any] = np.array
    if isinstance(good, torch.Tensor):
        made = torch.tensor
    elif isinstance(good, jax.Array):
        made = jnp.asarray
    return label, BENDS[label](np.asarray(good), made)


def check_one(rng: np.random.Generator, given: dict[str, Call]) -> tuple[str, str, str, bool]:
    """(function, argument, what it was, whether it was accepted); AssertionError for a raw error."""
    name = list(given)[rng.integers(0, len(given))]
    function, good = given[name]
    argument = list(good)[rng.integers(0, len(good))]
    label, value = bent(rng, good[argument])
    try:
        function(**{**good, argument: value})
    except (TypeError, ValueError) as error:
        if not begins_with_an_argument(str(error), names_of_arguments()):
            raise AssertionError(f"{name}({argument}={label}): {error}") from error
        return name, argument, label, False
    except Exception as error:
        raise AssertionError(f"{name}({argument}={label})") from error
    return name, argument, label, True


def check(seed: int, count: int) -> Counter[str]:
    """`count` calls, by function; AssertionError names the seed of the case that fails."""
    done: Counter[str] = Counter()
    given = calls(np.random.default_rng(seed))
    for case in range(count):
        where = f"support.fuzz.bad_arguments.check_one(default_rng([{seed}, {case}]), calls(default_rng({seed})))"
        try:
            name, argument, label, accepted = check_one(np.random.default_rng([seed, case]), given)
        except AssertionError as error:
            raise AssertionError(where) from error
        assert not accepted or label in LEGAL.get(f"{name} {argument}", ()), f"{where}: accepted {name}({argument}={label})"
        done["accepted" if accepted else "refused"] += 1
    return done
