"""A stop that is asked for at a given optimizer step, for the trainers of both frameworks."""

from __future__ import annotations

from typing import Any


class StopAfter:
    """A stop that is asked for after so many optimizer steps."""

    def __init__(self, trainer: Any, steps: int) -> None:
        self._trainer, self._last = trainer, trainer.optimizer_steps + steps

    def asked(self) -> bool:
        """Whether they are done."""
        return bool(self._trainer.optimizer_steps >= self._last)

    def finish(self) -> None:
        """Nothing waits here."""
