"""Where this checkout is, and the import path that a fresh interpreter needs to see it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
PATHS = [str(ROOT), str(ROOT / "backends"), str(ROOT / "tests")]
