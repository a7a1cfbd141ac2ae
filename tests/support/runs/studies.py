"""Runs for the study runner's tests; a worker process imports them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch


def square(settings: dict[str, Any]) -> dict[str, Any]:
    """x², after leaving a mark that it was done here; the settings say how it goes wrong."""
    if "marks" in settings:
        Path(settings["marks"], f"{settings['x']}-{time.monotonic_ns()}").touch()
    if settings.get("raises"):
        raise ArithmeticError("seven is right out")
    if settings.get("dies"):
        os._exit(9)
    if settings.get("sleeps"):
        time.sleep(600)
    y = float("nan") if settings.get("nan") else settings["x"] ** 2
    return {"y": y, "threads": torch.get_num_threads(), "process": os.getpid()}
