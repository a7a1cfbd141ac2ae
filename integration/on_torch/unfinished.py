"""The rest of a stopped rollout in a checkpoint, of either script, and read back from there."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from integration.options.errors import UserError
from integration.records.run_folder import UNFINISHED
from integration.shared.unfinished import Unfinished

OURS = ("integration.", "gspo_core.", "gspo_torch.")
"""Classes of these packages are read back, and NumPy's arrays: nothing else, so that a file cannot run what it likes."""
ARRAYS = (
    "numpy._core.multiarray._reconstruct", "numpy._core.multiarray.scalar", "numpy.ndarray", "numpy.dtype", "builtins.bytes",
)  # fmt: skip
DTYPES = [type(np.dtype(kind)) for kind in (np.bool_, np.int32, np.int64, np.float32, np.float64)]


def write_unfinished(folder: Path, work: Unfinished[Any, Any] | None) -> None:
    """Add it to a checkpoint, if there is one."""
    if work is not None:
        with (folder / UNFINISHED).open("wb") as stream:
            torch.save(work, stream)


def load_unfinished(checkpoint: Path, device: torch.device) -> Unfinished[Any, Any] | None:
    """What `write_unfinished` added; None if the checkpoint is between two rollouts. UserError for a file of anything else."""
    path = checkpoint / UNFINISHED
    if not path.exists():
        return None
    try:
        kinds = [_kind(name) for name in torch.serialization.get_unsafe_globals_in_checkpoint(path)]
        with torch.serialization.safe_globals([*kinds, *DTYPES]):
            work: Unfinished[Any, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged pickle raises anything; all of it means the same
        raise UserError(f"--resume: {path} cannot be read: {type(error).__name__} {error}") from error
    return work


def _kind(name: str) -> Any:
    """The class of that name; ValueError for one that does not belong into this file."""
    module, _, attribute = name.rpartition(".")
    found: Any = getattr(importlib.import_module(module), attribute) if name.startswith(OURS) or name in ARRAYS else None
    if found is None or not (isinstance(found, type) or name in ARRAYS):
        raise ValueError(f"{name} is no part of an unfinished rollout")
    return found
