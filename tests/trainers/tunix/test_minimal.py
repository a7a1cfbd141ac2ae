"""The program for maintainers still shows what it says. When it fails, the trainer was mended: update docs/in-the-wild.md."""

import subprocess
import sys

from support.repository import ROOT

SCRIPT = ROOT / "integration" / "wild" / "minimal" / "tunix_packing.py"


def test_the_difference() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=True)
    rows, packed, paper = (float(line.split()[-1]) for line in done.stdout.splitlines()[-3:])
    assert rows == paper == -0.024901
    assert packed == 0.0
