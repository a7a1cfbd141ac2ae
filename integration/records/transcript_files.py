"""The names of the files under transcripts/: before.json, after-000010.json. Other files there are somebody else's."""

from __future__ import annotations

import re
from pathlib import Path


def transcript_files(folder: Path) -> dict[Path, int]:
    """Each transcript in a folder, and after how many rollouts it was made, the first ones first; no other file."""
    found = {path: re.fullmatch(r"before|after-([0-9]+)", path.stem) for path in folder.glob("*.json")}
    steps = {path: int(name[1] or 0) for path, name in found.items() if name is not None}
    return dict(sorted(steps.items(), key=lambda each: (each[1], each[0].name)))
