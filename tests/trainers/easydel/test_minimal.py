"""The program for maintainers still shows what it says. When it fails, the trainer was mended: update docs/in-the-wild.md."""

import importlib.metadata
import subprocess
import sys

from support.repository import ROOT

from integration.wild.hosts.easydel import FILE

SCRIPT = ROOT / "integration" / "wild" / "minimal" / "easydel_clip.py"


def test_the_difference() -> None:
    file = importlib.metadata.distribution("easydel").locate_file(FILE)
    done = subprocess.run([sys.executable, str(SCRIPT), str(file)], capture_output=True, text=True, check=True)
    above, below = (line.split("gradient ")[1].split(", expected ") for line in done.stdout.splitlines()[-2:])
    assert above == ["0.0000", "1.3499"]
    assert below == ["0.7408", "0.0000"]
