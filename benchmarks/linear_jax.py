"""gspo_jax.linear_policy_loss beside naive jitted JAX and three bare matrix products: time and XLA's temporary memory.

    .venv/bin/python benchmarks/linear_jax.py [--shape T,H,V ...] [--case dense|real ...] [--rounds N] [--quick --out FILE]

float32. The process pins itself to one core, and XLA to one thread (intra_op_parallelism_threads=1, no threaded Eigen): XLA's
CPU client otherwise takes what threads there are. With --quick, whose times mean nothing, the caller's XLA_FLAGS stay. Inputs
are those of lm_head.py; a program is compiled once, its gradients must agree with float64 as lm_head.py demands, then all run
by turns. README.md has the fields of the JSON.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

CORE = min(os.sched_getaffinity(0))
os.sched_setaffinity(0, {CORE})
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD}" if "--quick" in sys.argv else ONE_THREAD
os.environ["JAX_PLATFORMS"] = "cpu"

import gspo_jax  # noqa: E402 (after the environment is set)
import jax  # noqa: E402 (after the environment is set)
import jax.numpy as jnp  # noqa: E402 (after the environment is set)
import torch  # noqa: E402 (after the environment is set)
from head_cases import HIGH, LOW, Inputs, Policy, Shape, Truth, dense, policy, real, truth  # noqa: E402 (after the environment is set)
from lm_head import agree, describe, keep, relative  # noqa: E402 (after the environment is set)
from stopwatch import MIB, Seconds, by_turns, machine, spread  # noqa: E402 (after the environment is set)

from gspo_core import GSPO, Packed  # noqa: E402 (after the environment is set)

RESULTS = Path(__file__).parent / "results" / "linear_jax.json"
SHAPES = (Shape(2048, 512, 32768), Shape(1024, 1024, 151936))
QUICK = (Shape(256, 32, 1000),)
SEQUENCES = {2048: (16, 32, 4), 1024: (8, 32, 4), 256: (4, 16, 2)}
"""For each number of tokens: sequences when dense; sequences and group size when real."""
SHARE = 5
"""The aligned way's budget is this part of naive's temporary memory: a ring, beside which there are tiles."""
PAIRS = (("aligned", "naive"), ("two_pass", "naive"), ("aligned", "floor"), ("two_pass", "floor"), ("naive", "floor"))


class Arrays(NamedTuple):
    """A benchmark's inputs on JAX."""

    hidden: Any
    lm_head: Any
    tokens: Any
    old_logp: Any
    advantage: Any
    segments: Any


def arrays(x: Inputs) -> Arrays:
    """From PyTorch."""
    given = (x.hidden, x.lm_head, x.tokens.int(), x.old_logp, x.advantage, x.segment.int())
    return Arrays(*(jnp.asarray(part.numpy()) for part in given))


def naive(x: Arrays) -> Any:
    """(value, gradients) from all logits: log_softmax, gather, the loss straight-line, jax.grad."""

    def value(hidden: Any, head: Any) -> Any:
        logp = jnp.take_along_axis(jax.nn.log_softmax(hidden @ head.T), x.tokens[:, None], axis=1)[:, 0]
        num = len(x.advantage)
        lengths = jax.ops.segment_sum(jnp.ones_like(logp), x.segments, num)
        s = jnp.exp(jax.ops.segment_sum(logp - x.old_logp, x.segments, num) / lengths)
        return -jnp.mean(jnp.minimum(s * x.advantage, jnp.clip(s, 1 - LOW, 1 + HIGH) * x.advantage))

    return jax.value_and_grad(value, argnums=(0, 1))(x.hidden, x.lm_head)


def ours(budget_bytes: int) -> Callable[[Arrays], Any]:
    """`gspo_jax.linear_policy_loss` with a budget."""

    def run(x: Arrays) -> Any:
        layout = Packed(x.segments, len(x.advantage))

        def value(hidden: Any, head: Any) -> Any:
            rest = (x.tokens, x.old_logp, x.advantage, layout)
            return gspo_jax.linear_policy_loss(GSPO, hidden, head, *rest, budget_bytes=budget_bytes).value

        return jax.value_and_grad(value, argnums=(0, 1))(x.hidden, x.lm_head)

    return run


def floor(x: Arrays) -> Any:
    """The three products of the exact gradient on all rows, in blocks of at most 8192 rows of the head, and nothing else."""
    blocks = next(n for n in range(-(-len(x.lm_head) // 8192), len(x.lm_head) + 1) if len(x.lm_head) % n == 0)

    def step(d_hidden: Any, weight: Any) -> tuple[Any, Any]:
        z = x.hidden @ weight.T
        return d_hidden + z @ weight, z.T @ x.hidden

    d_hidden, d_head = jax.lax.scan(step, jnp.zeros_like(x.hidden), x.lm_head.reshape(blocks, -1, x.lm_head.shape[1]))
    return jnp.zeros(()), (d_hidden, d_head.reshape(x.lm_head.shape))


class Program(NamedTuple):
    """Compiled, with what it needs beyond inputs and outputs."""

    run: Callable[[], Any]
    temp_mib: float


def compiled(f: Callable[[Arrays], Any], x: Arrays) -> Program:
    """For these shapes."""
    program = jax.jit(f).lower(x).compile()
    return Program(lambda: jax.block_until_ready(program(x)), program.memory_analysis().temp_size_in_bytes / MIB)


def errors(program: Program, x: Inputs, right: Truth) -> dict[str, Any]:
    """Of one run, against float64."""
    value, gradients = program.run()
    hidden, head = (torch.from_numpy(jax.device_get(g).copy()) for g in gradients)
    decided = torch.zeros(len(x.lengths)).index_add(0, x.segment, hidden.abs().sum(1)) == 0
    wrong = right.clear & (x.advantage != 0) & (decided != right.clipped)
    return {
        "value_error": abs(float(value) - right.value),
        "hidden_error": relative(hidden, right.hidden),
        "lm_head_error": relative(head, right.lm_head),
        "wrong_clip_decisions": int(wrong.sum()),
    }


def both(ours: list[Seconds], theirs: list[Seconds]) -> dict[str, dict[str, float]]:
    """Our time over theirs, round by round."""
    pairs = list(zip(ours, theirs, strict=True))
    return {"cpu": spread([a.cpu / b.cpu for a, b in pairs]), "wall": spread([a.wall / b.wall for a, b in pairs])}


def row(shape: Shape, case: str, drawn: Policy, rounds: int) -> dict[str, Any]:
    """One shape and case."""
    even, uneven, group = SEQUENCES[shape.tokens]
    x = dense(drawn, even) if case == "dense" else real(drawn, uneven, group)
    given, right = arrays(x), truth(x, drawn.logp)
    plain = compiled(naive, given)
    budget = int(plain.temp_mib * MIB) // SHARE
    programs = {
        "naive": plain,
        "two_pass": compiled(ours(0), given),
        "aligned": compiled(ours(budget), given),
        "floor": compiled(floor, given),
    }
    found = {name: errors(program, x, right) for name, program in programs.items() if name != "floor"}
    for name, one in found.items():
        agree(name, one, shape.vocabulary, float(x.advantage.abs().mean()))
    described = describe(x, right, drawn)
    del right
    programs["floor"].run()
    times = by_turns({name: program.run for name, program in programs.items()}, rounds)
    rows = {
        name: {"temp_mib": round(programs[name].temp_mib, 1), **found.get(name, {})}
        | {"cpu_s": spread([t.cpu for t in runs]), "wall_s": spread([t.wall for t in runs])}
        for name, runs in times.items()
    }
    return {
        "shape": shape.name,
        "case": case,
        **described,
        "budget_mib": round(budget / MIB, 1),
        "implementations": rows,
        "ratios": {f"{a}/{b}": both(times[a], times[b]) for a, b in PAIRS},
        "temp_of_naive": {a: round(programs[a].temp_mib / plain.temp_mib, 3) for a in ("two_pass", "aligned")},
    }


def table(result: dict[str, Any]) -> str:
    """One row of the results, for people."""
    lines = [
        f"T,H,V = {result['shape']}, {result['case']}: {100 * result['tokens_without_weight']:.0f} % of the tokens without "
        f"weight, aligned with {result['budget_mib']} MiB"
    ]
    for name, one in result["implementations"].items():
        times = f"{one['cpu_s']['min']:8.2f}{one['cpu_s']['median']:8.2f} CPU s{one['wall_s']['median']:8.2f} wall s"
        lines.append(f"{name:16s}{times}{one['temp_mib']:9.0f} MiB")
    for pair, ratio in result["ratios"].items():
        cpu = ratio["cpu"]
        lines.append(
            f"  {pair:25s}CPU {cpu['median']:.2f} ({cpu['min']:.2f} to {cpu['max']:.2f}), wall {ratio['wall']['median']:.2f}"
        )
    return "\n".join([*lines, f"  temporary memory, of naive's: {result['temp_of_naive']}"])


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", help="T,H,V; repeat for several (both)")
    parser.add_argument("--case", action="append", choices=("dense", "real"), help="repeat for several (both)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (5)")
    parser.add_argument("--quick", action="store_true", help="a small shape: does it run, do all agree")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON")
    arguments = parser.parse_args()
    if arguments.quick and arguments.out == RESULTS:
        parser.error("--quick: give --out, the committed results are not for small shapes")
    return arguments


def main() -> None:
    """Measure, print, keep."""
    arguments = parse()
    torch.set_num_threads(1)
    chosen = [Shape(*map(int, text.split(","))) for text in arguments.shape or []]
    for shape in chosen or list(QUICK if arguments.quick else SHAPES):
        if shape.tokens not in SEQUENCES:
            sys.exit(f"--shape: expected {' or '.join(map(str, SEQUENCES))} tokens, got {shape.tokens}")
        drawn = policy(shape)
        for case in arguments.case or ("dense", "real"):
            where = machine() | {"jax": jax.__version__, "core": CORE}
            result = row(shape, case, drawn, arguments.rounds)
            print(table(result), flush=True)
            keep(result | {"machine": where}, arguments.out)
        del drawn


if __name__ == "__main__":
    main()
