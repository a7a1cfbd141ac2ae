"""Reports with an empty picture, for runs whose pictures nobody sees: drawing takes longer than a small run trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch


@contextmanager
def without_pictures() -> Iterator[None]:
    """Inside, reports are written without them."""
    with (
        patch("integration.records.report.plots", _empty),
        patch("integration.records.report.captioned", lambda _: []),
    ):
        yield


def _empty(_: object) -> Any:
    return import_module("matplotlib.figure").Figure(figsize=(1, 1))
