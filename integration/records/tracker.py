"""A run's numbers in wandb or trackio, whose calls are the same, where one of them is installed."""

from __future__ import annotations

import importlib
from typing import Any

from integration.options.words import TrackerName
from integration.records.json_lines import Row

PROJECT = "gspo-core"


class Tracker:
    """Sends each line of numbers to a service. With "none" nothing is imported, and nothing is sent."""

    def __init__(self, name: TrackerName, run: str, options: Row) -> None:
        self._module: Any = None
        if name == "none":
            return
        self._module = importlib.import_module(name)
        which = {"id": run} if name == "wandb" else {}  # a resumed run goes on there, too: trackio finds it by its name
        self._module.init(project=PROJECT, name=run, config=options, resume="allow", **which)

    def log(self, name: str, row: Row) -> None:
        """The numbers of a line that was added to the run's file `name`, at its rollout."""
        if self._module is not None:
            part = name.removesuffix(".jsonl")
            numbers = {f"{part}/{key}": x for key, x in row.items() if isinstance(x, (int, float)) and key != "step"}
            self._module.log({**numbers, "rollout": row["step"]})

    def end(self) -> None:
        """Wait until all is sent."""
        if self._module is not None:
            self._module.finish()
