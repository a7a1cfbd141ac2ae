"""Models that take a while to make are kept on disk, by a hash of all that determines them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from integration.options.errors import NotWritten, UserError
from integration.records.checksums import NAME, damage, write_checksums
from integration.records.files import create_folder, write_whole


class Saved(Protocol):
    """A model or a tokenizer of transformers."""

    def save_pretrained(self, folder: Path) -> Any:
        """Write it into a folder, which is created if it is missing."""


def cached_model(cache: Path, name: str, recipe: dict[str, Any], make: Callable[[], Sequence[Saved]]) -> Path:
    """The folder of a model, in the format of transformers; `make` is called only if the cache has none of this recipe.

    Args:
        cache: the folder of all such folders.
        name: the beginning of the folder's name, for people.
        recipe: JSON values that determine the weights: sizes, seed, data, steps. The versions of torch and transformers
            are added here, since another version may initialise or compute otherwise. It is written to recipe.json.
        make: returns the model, and the tokenizer if there is one.

    Raises NotWritten for a full disk, or a cache that is read-only, and UserError if the model that is there was damaged.
    """
    recipe = recipe | {package: version(package) for package in ("torch", "transformers")}
    text = json.dumps(recipe, indent=1, sort_keys=True)
    folder = cache / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def fill(temporary: Path) -> None:
        parts = make()
        try:
            for part in parts:
                part.save_pretrained(temporary)
            write_whole(temporary / "recipe.json", text + "\n")
            write_checksums(temporary)
        except Exception as error:  # safetensors reports a full disk in its own way
            raise _not_written(folder, error) from error

    if not folder.exists():
        try:
            create_folder(folder, fill)
        except OSError as error:
            raise _not_written(folder, error) from error
    wrong = damage(folder) if (folder / NAME).exists() else None  # older caches have none
    if wrong is not None:
        raise UserError(f"--cache-dir: {folder} is broken: {wrong}; delete that folder, and it is made again")
    return folder


def _not_written(folder: Path, error: Exception) -> NotWritten:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return NotWritten(f"--cache-dir: {folder} could not be written: {first}; make room, or name another folder")
