"""Effect of bfloat16 parameters on GSPO's clip decisions and gradients: each implementation against float64.

    .venv/bin/python benchmarks/precision.py [--quick] [--out FILE]

Hidden states and head are bfloat16 numbers, old log-probs are exact (float64, rounded once to float32). Two cases: `same`,
where the policy has not moved, so that every ratio is 1 and nothing is clipped; and `moved`, where log s is normal with a
standard deviation of 4e-4, about the clip range, and never closer than 3e-5 to a bound. A decision is wrong if it differs
from float64's. Not a matter of time: old log-probs from the same path with the same weights would cancel the
error in `same`; those of another engine, or of the weights before an update, do not.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from head_cases import EDGE, HIGH, LOW, Inputs, Policy, Shape, Truth, policy, truth, with_ratios
from head_implementations import IMPLEMENTATIONS, Missing

RESULTS = Path(__file__).parent / "results" / "precision.json"
SHAPE, SEQUENCES = Shape(4096, 256, 8192), (64, 16)
"""64 sequences of 64 tokens, and 256 of 16."""
QUICK, QUICK_SEQUENCES = Shape(256, 32, 1000), (16,)
NAMES = ("naive", "linear_cross_entropy", "liger", "two_pass", "aligned")


def batch(drawn: Policy, length: int, scale: float) -> Inputs:
    """Sequences of equal length whose log s is normal, with this standard deviation."""
    generator = torch.Generator().manual_seed(1)
    sequences = len(drawn.tokens) // length
    log_s = torch.randn(sequences, generator=generator) * scale
    for bound in (math.log(1 - LOW), math.log(1 + HIGH)):
        off = log_s - bound
        log_s = torch.where(off.abs() < 3 * EDGE, bound + 3 * EDGE * off.sign(), log_s)
    advantage = torch.randn(sequences, generator=generator)
    return with_ratios(drawn, torch.full((sequences,), length), advantage, log_s, generator)


def errors(name: str, x: Inputs, right: Truth) -> dict[str, Any]:
    """Of one implementation."""
    prepared = IMPLEMENTATIONS[name](x)
    result = prepared.run()
    assert result is not None
    _, hidden, head = result
    hidden = prepared.packed(hidden)
    decided = torch.zeros(len(x.lengths)).index_add(0, x.segment, hidden.float().abs().sum(1)) == 0
    clear = right.clear
    return {
        "clipped": round(float(decided.float().mean()), 4),
        "wrong_clip_decisions": round(float((decided != right.clipped)[clear].float().mean()), 4),
        "hidden_error": relative(hidden, right.hidden),
        "lm_head_error": relative(head, right.lm_head),
    }


def relative(x: torch.Tensor, right: torch.Tensor) -> float:
    """‖x − right‖ / ‖right‖"""
    return float(f"{float((x.double() - right).norm() / right.norm()):.3g}")


def main() -> None:
    """Compare, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small shape: does it run")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON")
    arguments = parser.parse_args()
    if arguments.quick and arguments.out == RESULTS:
        parser.error("--quick: give --out, the committed results are not for small shapes")
    torch.set_num_threads(1)
    rows = []
    shape, lengths = (QUICK, QUICK_SEQUENCES) if arguments.quick else (SHAPE, SEQUENCES)
    drawn = policy(shape, torch.bfloat16)
    for length in lengths:
        for case, scale in (("same", 0.0), ("moved", 4e-4)):
            x = batch(drawn, length, scale)
            right = truth(x, drawn.logp)
            share = float(right.clipped.float().mean())
            print(f"{case}: {len(x.lengths)} sequences of {length} tokens, {100 * share:.0f} % clipped in float64")
            for name in NAMES:
                try:
                    found = errors(name, x, right)
                except Missing as why:
                    print(f"  left out: {why}")
                    continue
                about = {"case": case, "tokens": length, "sequences": len(x.lengths), "clipped_in_float64": round(share, 4)}
                rows.append({"implementation": name, **about, **found})
                wrong, clipped = 100 * found["wrong_clip_decisions"], 100 * found["clipped"]
                both = f"∂hidden {found['hidden_error']:8.1e}  ∂lm_head {found['lm_head_error']:8.1e}"
                print(f"  {name:21s} clipped {clipped:5.1f} %  wrong {wrong:5.1f} %  {both}", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    kept = {"shape": shape.name, "entropy": round(drawn.entropy, 2), "rows": rows}
    arguments.out.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
