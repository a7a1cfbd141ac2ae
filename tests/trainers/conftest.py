"""A folder per trainer. Where the trainer is not installed its folder is left out, unless every one is asked for."""

import importlib.metadata
import os
from pathlib import Path

import pytest

DISTRIBUTIONS = {"liger": "liger-kernel", "tunix": "google-tunix"}
"""Of the folders that are not called like theirs."""


def _missing(folder: str) -> bool:
    try:
        importlib.metadata.version(DISTRIBUTIONS.get(folder, folder))
    except importlib.metadata.PackageNotFoundError:
        return True
    return False


collect_ignore = sorted(path.name for path in Path(__file__).parent.glob("*/") if path.name[0] != "_" and _missing(path.name))
if collect_ignore and os.environ.get("EVERY_TRAINER"):
    raise pytest.UsageError(f"expected every trainer to be installed, got none of: {', '.join(collect_ignore)}")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Trainers train: none of their tests belongs to the quick ones. What they say about their own code is not ours to mend."""
    if Path(__file__).parent in item.path.parents:
        item.add_marker("slow")
        for category in ("FutureWarning", "DeprecationWarning", "UserWarning"):
            item.add_marker(pytest.mark.filterwarnings(f"ignore::{category}"))
