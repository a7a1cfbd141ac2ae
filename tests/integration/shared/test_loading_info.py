"""Weights that a file lacks are named, and not made up."""

from __future__ import annotations

import pytest

from integration.options.errors import UserError
from integration.shared.loading_info import require_all_weights


def test_missing_and_misshapen_weights_are_named() -> None:
    require_all_weights({"missing_keys": [], "mismatched_keys": [], "unexpected_keys": ["extra"]}, "folder")
    for keys in (
        {"missing_keys": ["a.weight"], "mismatched_keys": []},
        {"missing_keys": set(), "mismatched_keys": ["a.weight"]},
    ):
        with pytest.raises(UserError, match=r"^--model: the weights of folder do not fit its config: a\.weight missing or"):
            require_all_weights(keys, "folder")
