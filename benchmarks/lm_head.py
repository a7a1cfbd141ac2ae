"""From hidden states to GSPO's loss and gradients: time, memory and error of ours, of what else there is, and of the floor.

    .venv/bin/python benchmarks/lm_head.py [--shape T,H,V ...] [--case dense|real ...] [--repeats N] [--quick]

float32, one thread. Every implementation first runs once in a process of its own, which measures its peak memory and its
error against float64; none is timed unless all agree. Then they run by turns in one process. README.md has the method.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from head_cases import Inputs, Policy, Shape, Truth, dense, policy, real, truth
from head_implementations import IMPLEMENTATIONS, Missing, Prepared
from head_picture import draw
from stopwatch import MIB, by_turns, in_child, machine, peak_of, ratios, spread

RESULTS = Path(__file__).parent / "results" / "lm_head.json"
SHAPES = (Shape(4096, 512, 32768), Shape(1024, 1024, 151936))
QUICK = (Shape(256, 32, 1000),)
SEQUENCES = {4096: (16, 32, 4), 1024: (8, 32, 4), 256: (4, 16, 2)}
"""For each number of tokens: sequences when dense; sequences and group size when real."""
PAIRS = (
    ("aligned", "floor"),
    ("aligned", "liger"),
    ("aligned", "naive"),
    ("aligned", "linear_cross_entropy"),
    ("two_pass", "naive"),
    ("two_pass", "liger"),
    ("two_pass", "floor"),
)


def check(name: str, prepared: Prepared, x: Inputs, right: Truth) -> dict[str, Any]:
    """Peak memory and errors of one run; for a process of its own."""
    # Code that was not touched yet, and the libraries' own buffers, are not this computation's memory.
    IMPLEMENTATIONS[name](real(policy(Shape(64, x.hidden.shape[1], 5000)), sequences=16, group=2)).run()
    result, peak = peak_of(prepared.run)
    if result is None:
        return {"peak_mib": round(peak, 1)}
    value, hidden, head = result
    gradients = (hidden.nbytes + head.nbytes) / MIB
    hidden = prepared.packed(hidden)
    decided = torch.zeros(len(x.lengths)).index_add(0, x.segment, hidden.abs().sum(1)) == 0
    wrong = right.clear & (x.advantage != 0) & (decided != right.clipped)
    return {
        "peak_mib": round(peak, 1),
        "beyond_gradients_mib": round(peak - gradients, 1),
        "value_error": abs(float(value) - right.value),
        "hidden_error": relative(hidden, right.hidden),
        "lm_head_error": relative(head, right.lm_head),
        "wrong_clip_decisions": int(wrong.sum()),
    }


def relative(x: torch.Tensor, right: torch.Tensor) -> float:
    """‖x − right‖ / ‖right‖, block by block."""
    error = sum(float((a.double() - b).square().sum()) for a, b in zip(x.split(4096), right.split(4096), strict=True))
    return float(f"{(error / float(right.square().sum())) ** 0.5:.2e}")


def agreement(vocabulary: int) -> float:
    """Largest relative error (2-norm) of a float32 gradient: one rounding, times √V for a sum of exponentials that is added
    up one by one (a random walk), and 64 for the shorter sums and for logits of some ten nats."""
    return 2.0**-24 * (64 + vocabulary**0.5)


def agree(name: str, errors: dict[str, Any], vocabulary: int, scale: float) -> None:
    """SystemExit unless it computed the same as everybody. `scale`: the mean |advantage|, what the loss is a difference of."""
    bound = agreement(vocabulary)
    bounds = {
        "value_error": bound * scale,
        "hidden_error": bound,
        "lm_head_error": bound,
        "wrong_clip_decisions": 0,
    }
    for field, bound in bounds.items():
        if not errors[field] <= bound:
            sys.exit(f"{name}: {field} is {errors[field]}, more than {bound}: not the same computation, so it is not timed")


def row(shape: Shape, case: str, drawn: Policy, repeats: int, names: list[str]) -> dict[str, Any]:
    """One shape and case."""
    even, uneven, group = SEQUENCES[shape.tokens]
    x = dense(drawn, even) if case == "dense" else real(drawn, uneven, group)
    prepared, missing = {}, []
    for name in names:
        try:
            prepared[name] = IMPLEMENTATIONS[name](x)
        except Missing as why:
            missing.append(str(why))
            print(f"left out: {why}")
    described, checks = compare(prepared, x, drawn)
    times = by_turns({name: one.run for name, one in prepared.items()}, repeats)
    rows = {
        name: checks[name] | {"cpu_s": spread([t.cpu for t in runs]), "wall_s": spread([t.wall for t in runs])}
        for name, runs in times.items()
    }
    pairs = {f"{a}/{b}": ratios(times[a], times[b]) for a, b in PAIRS if a in times and b in times}
    return {"shape": shape.name, "case": case, **described, "implementations": rows, "cpu_ratios": pairs, "missing": missing}


def compare(prepared: dict[str, Prepared], x: Inputs, drawn: Policy) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """(what kind of batch it is, memory and errors of each); SystemExit unless all compute the same."""
    right = truth(x, drawn.logp)
    checks = {name: in_child(lambda name=name: check(name, prepared[name], x, right)) for name in prepared}
    for name, errors in checks.items():
        if name != "floor":
            agree(name, errors, len(x.lm_head), float(x.advantage.abs().mean()))
    return describe(x, right, drawn), checks


def describe(x: Inputs, right: Truth, drawn: Policy) -> dict[str, Any]:
    """What kind of batch it is."""
    dull = x.advantage == 0
    still = (dull | right.clipped).float()
    return {
        "sequences": len(x.lengths),
        "longest": int(x.lengths.max()),
        "pad_ratio": round(x.pad_ratio, 2),
        "sequences_without_advantage": round(float(dull.float().mean()), 3),
        "sequences_clipped": round(float(right.clipped.float().mean()), 3),
        "tokens_without_advantage": round(float(dull.float()[x.segment].mean()), 3),
        "tokens_without_weight": round(float(still[x.segment].mean()), 3),
        "entropy": round(drawn.entropy, 2),
    }


def table(result: dict[str, Any]) -> str:
    """One row of the results, for people."""
    lines = [
        f"T,H,V = {result['shape']}, {result['case']}: {result['sequences']} sequences, pad ratio {result['pad_ratio']}, "
        f"{100 * result['tokens_without_weight']:.0f} % of the tokens without weight",
        f"{'':22s}{'CPU s (min, median)':>21s}{'wall s':>9s}{'MiB beyond':>12s}{'∂hidden':>10s}{'∂lm_head':>10s}",
    ]
    for name, one in result["implementations"].items():
        fields = [("beyond_gradients_mib", "12.0f"), ("hidden_error", "10.1e"), ("lm_head_error", "10.1e")]
        errors = "".join(format(one[field], form) for field, form in fields if field in one)
        cpu = f"{one['cpu_s']['min']:11.2f}{one['cpu_s']['median']:10.2f}"
        lines.append(f"{name:22s}{cpu}{one['wall_s']['median']:9.2f}{errors}")
    for pair, ratio in result["cpu_ratios"].items():
        lines.append(f"  {pair:32s}{ratio['median']:6.2f}  ({ratio['min']:.2f} to {ratio['max']:.2f})")
    return "\n".join(lines)


def keep(result: dict[str, Any], out: Path) -> list[dict[str, Any]]:
    """Writes it, in place of an older one of the same shape and case; returns all that the file holds then."""
    rows = json.loads(out.read_text())["rows"] if out.exists() else []
    rows = [one for one in rows if (one["shape"], one["case"]) != (result["shape"], result["case"])] + [result]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    return rows


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", help="T,H,V; repeat for several (both)")
    parser.add_argument("--case", action="append", choices=("dense", "real"), help="repeat for several (both)")
    parser.add_argument("--only", action="append", choices=IMPLEMENTATIONS, help="repeat for several (all)")
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds (3)")
    parser.add_argument("--quick", action="store_true", help="small shapes: does it run, do all agree")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON; the picture goes beside it")
    arguments = parser.parse_args()
    if arguments.quick and arguments.out == RESULTS:
        parser.error("--quick: give --out, the committed results are not for small shapes")
    return arguments


def main() -> None:
    """Measure, print, keep."""
    arguments = parse()
    torch.set_num_threads(1)
    chosen = [Shape(*map(int, text.split(","))) for text in arguments.shape or []]
    shapes = chosen or list(QUICK if arguments.quick else SHAPES)
    rows: list[dict[str, Any]] = []
    for shape in shapes:
        drawn = policy(shape)
        for case in arguments.case or ("dense", "real"):
            where = machine()
            result = row(shape, case, drawn, arguments.repeats, arguments.only or list(IMPLEMENTATIONS))
            print(table(result), flush=True)
            rows = keep(result | {"machine": where}, arguments.out)
        del drawn
    draw(rows, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
