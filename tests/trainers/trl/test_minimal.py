"""The program for maintainers still shows what it says. When it fails, the trainer was mended: update docs/in-the-wild.md."""

import subprocess
import sys

from support.repository import ROOT

SCRIPT = ROOT / "integration" / "wild" / "minimal" / "trl_head_fsdp.py"


def test_the_difference() -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(SCRIPT)]
    done = subprocess.run(launch, capture_output=True, text=True, check=True)
    root, alone = (float(line.rsplit(" ", 1)[1]) for line in done.stdout.splitlines()[-2:])
    assert root < 1e-6
    assert alone > 0.5
