"""A fingerprint of a model's weights, by which a resumed run knows the model that it was started from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from integration.options.errors import UserError


def fingerprint_of(weights: Iterable[tuple[str, np.ndarray]]) -> str:
    """SHA-256 over names and bytes, in the order of the names.

    >>> import numpy as np
    >>> pair = [("b", np.zeros(2)), ("a", np.ones(1))]
    >>> fingerprint_of(pair) == fingerprint_of(reversed(pair)), fingerprint_of(pair) == fingerprint_of(pair[:1])
    (True, False)
    """
    found = hashlib.sha256()
    for name, values in sorted(weights, key=lambda pair: pair[0]):
        found.update(name.encode() + b"\0")
        found.update(np.ascontiguousarray(values).data)
    return found.hexdigest()


def require_same_reference(model: str, found: str, saved: str) -> None:
    """UserError if the reference of --kl is not the one that the checkpoint to resume was trained against."""
    if found != saved:
        raise UserError(
            f"--resume: the weights of --model {model} are not those that the run was started from, which are the reference of "
            "--kl; put them back where they were, or start a new run"
        )


def require_same_base(model: str, found: str, saved: str) -> None:
    """UserError if the weights that adapters are put into are not those that they were trained on."""
    if found != saved:
        raise UserError(
            f"--resume: the weights of --model {model} are not those that the adapters of this run were trained on; put them "
            "back where they were, or start a new run"
        )
