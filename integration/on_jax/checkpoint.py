"""A checkpoint of the JAX script: model.safetensors, config and tokenizer as transformers has them; optimizer/ (orbax) and
state.json (counters). Random keys are functions of seed and step.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from safetensors.numpy import save_file

from integration.on_jax.learner import Learner
from integration.on_jax.weights import named_weights
from integration.options.errors import UserError
from integration.records.json_lines import Row


def write_checkpoint(folder: Path, learner: Learner, tokenizer: Any, model_files: dict[str, str], state: Row) -> None:
    """Fill a new folder."""
    tokenizer.save_pretrained(folder)
    for name, text in model_files.items():
        (folder / name).write_text(text, encoding="utf-8")
    save_file(named_weights(learner.params), folder / "model.safetensors", metadata={"format": "pt"})
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute() / "optimizer", learner.optimizer_state)
    (folder / "state.json").write_text(json.dumps(state) + "\n", encoding="utf-8")


def restore_checkpoint(checkpoint: Path, learner: Learner) -> Row:
    """Give the learner the optimizer's state of a checkpoint whose weights it has; returns the counters."""
    if not (checkpoint / "state.json").exists():
        raise UserError(f"--resume: {checkpoint} was not written by the JAX script; go on with the script that wrote it")
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            as_here = jax.tree.map(ocp.utils.to_shape_dtype_struct, learner.optimizer_state)  # on whatever mesh it was saved
            learner.optimizer_state = checkpointer.restore(checkpoint.absolute() / "optimizer", as_here)
        return dict(json.loads((checkpoint / "state.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"--resume: {checkpoint} cannot be read, or is a checkpoint of another model: {first}") from error
