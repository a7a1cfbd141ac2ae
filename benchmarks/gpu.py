"""The LM head on one GPU: correctness against float64, then time and memory beside naive code, Liger and bare matmuls.

    python benchmarks/gpu.py --json FILE       on a GPU, under 7 minutes
    python benchmarks/gpu.py --check           small shapes, correctness only, also on a CPU

Needs torch, triton, numpy and this package; Liger is measured if it can be imported. Heads are those of Qwen3-0.6B,
30B-A3B and 8B (H = 1024, 2048, 4096; V = 151936) in bfloat16; a call is the forward and backward of GSPO from hidden states
to the gradients of hidden states and head. The unit is the floor: three bare matrix products of the same size, in blocks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gspo_torch
import torch
from gspo_torch.lm_head import two_pass
from torch import Tensor

from gspo_core import GSPO, Padded

try:
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss
except ImportError:
    LigerFusedLinearGRPOLoss = None

VOCABULARY = 151936
LOW, HIGH = 3e-4, 4e-4
MARGIN = 1e-5
"""Clip decisions count as wrong only where log s is further than this from the bound."""
MIB = 2**20


class Problem(NamedTuple):
    """A batch of equally long sequences, [N, L]."""

    hidden: Tensor
    weight: Tensor
    tokens: Tensor
    old_logp: Tensor
    advantage: Tensor


Gradients = tuple[Tensor, Tensor]
Implementation = Callable[[Problem], Gradients]


def problem(n: int, length: int, width: int, vocabulary: int, device: str, *, skip: float = 0.0) -> Problem:
    """Logits of standard deviation 2; a share `skip` of the sequences has no advantage. Old log-probs are the current ones."""
    torch.manual_seed(0)
    hidden = torch.randn(n, length, width, device=device).bfloat16().requires_grad_()
    weight = (2 / width**0.5 * torch.randn(vocabulary, width, device=device)).bfloat16().requires_grad_()
    tokens = torch.randint(vocabulary, (n, length), device=device)
    with torch.no_grad():
        old = gspo_torch.token_logp(hidden, weight, tokens)
    advantage = torch.where(torch.arange(n, device=device) % 2 == 0, 1.0, -1.0)
    advantage[: round(skip * n)] = 0.0
    return Problem(hidden, weight, tokens, old, advantage)


def mask(x: Problem) -> Tensor:
    """Every slot is a token."""
    return torch.ones_like(x.tokens, dtype=torch.bool)


def ours(x: Problem) -> Gradients:
    """linear_policy_loss as it comes: the Triton kernels, where they can run."""
    loss = gspo_torch.linear_policy_loss(GSPO, x.hidden, x.weight, x.tokens, x.old_logp, x.advantage, Padded(mask(x)))
    return torch.autograd.grad(loss.value, (x.hidden, x.weight))


def plain(x: Problem) -> Gradients:
    """The same in plain torch: tiles from the tensor cores in float32, elementwise operations on them."""
    kept, two_pass.kernels = two_pass.kernels, None  # type: ignore[assignment]  # without the kernels
    try:
        return ours(x)
    finally:
        two_pass.kernels = kept


def naive(x: Problem) -> Gradients:
    """Full logits, rounded to the parameters' type as a Linear layer does, log_softmax in float32."""
    logits = (x.hidden @ x.weight.T).float()
    logp = torch.log_softmax(logits, -1).gather(-1, x.tokens[..., None])[..., 0]
    del logits
    loss = gspo_torch.policy_loss(GSPO, logp, x.old_logp, x.advantage, Padded(mask(x)))
    return torch.autograd.grad(loss.value, (x.hidden, x.weight))


def liger(x: Problem) -> Gradients:
    """Liger's chunked GRPO loss at sequence level, otherwise as it comes."""
    loss_fn = LigerFusedLinearGRPOLoss(
        beta=0.0,
        epsilon_low=LOW,
        epsilon_high=HIGH,
        loss_type="grpo",
        importance_sampling_level="sequence",
        use_ref_model=False,
    )
    loss, _ = loss_fn(x.hidden, x.weight, x.tokens, mask(x).int(), x.advantage, old_per_token_logps=x.old_logp)
    return torch.autograd.grad(loss, (x.hidden, x.weight))


def liger_tf32(x: Problem) -> Gradients:
    """Liger with float32 products allowed on the tensor cores."""
    kept = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        return liger(x)
    finally:
        torch.set_float32_matmul_precision(kept)


def floor(x: Problem, block: int = 16384) -> None:
    """Three bare matrix products on all rows."""
    hidden, weight = x.hidden.detach().flatten(0, 1), x.weight.detach()
    for start in range(0, len(weight), block):
        part = weight[start : start + block]
        tile = hidden @ part.T
        _ = tile.T @ hidden
        _ = tile @ part


def truth(x: Problem, rows: int = 1024) -> tuple[Tensor, Tensor, Gradients]:
    """(log s, clipped, gradients) in float64, chunk by chunk, from the paper's formulas."""
    hidden, weight = x.hidden.detach().double().flatten(0, 1), x.weight.detach().double()
    tokens = x.tokens.flatten()
    logp = torch.empty(len(hidden), dtype=torch.float64, device=hidden.device)
    chunks = [slice(start, start + rows) for start in range(0, len(hidden), rows)]
    for chunk in chunks:
        logits = hidden[chunk] @ weight.T
        logp[chunk] = logits.gather(1, tokens[chunk, None])[:, 0] - logits.logsumexp(1)
    log_s = (logp.view(x.tokens.shape) - x.old_logp.double()).mean(1)
    a, s = x.advantage.double(), log_s.exp()
    clipped = ((a > 0) & (s > 1 + HIGH)) | ((a < 0) & (s < 1 - LOW))
    c = torch.where(clipped, 0.0, -a * s / s.numel() / x.tokens.shape[1])[:, None].expand(x.tokens.shape).flatten()
    d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight)
    for chunk in chunks:
        dlogits = (hidden[chunk] @ weight.T).softmax(1).mul_(-c[chunk, None])
        dlogits.scatter_add_(1, tokens[chunk, None], c[chunk, None])
        d_hidden[chunk] = dlogits @ weight
        d_weight += dlogits.T @ hidden[chunk]
    return log_s, clipped, (d_hidden.view(x.hidden.shape), d_weight)


def check(
    n: int,
    length: int,
    width: int,
    vocabulary: int,
    device: str,
    candidates: dict[str, Implementation],
    dtype: torch.dtype = torch.bfloat16,
) -> Iterator[Any]:
    """Wrong clip decisions and relative gradient errors (Frobenius) of each implementation, log s within ±8e-4."""
    x = problem(n, length, width, vocabulary, device)
    x = x._replace(hidden=x.hidden.detach().to(dtype).requires_grad_(), weight=x.weight.detach().to(dtype).requires_grad_())
    exact, _, _ = truth(x)
    shift = torch.linspace(-8e-4, 8e-4, n, dtype=torch.float64, device=device)[torch.randperm(n, device=device)]
    bound = torch.where(x.advantage > 0, torch.log1p(torch.tensor(HIGH)), torch.log1p(torch.tensor(-LOW))).double()
    # Nobody sits on the fence: one sequence decided the other way would be all that the gradient's error shows.
    shift = torch.where((shift - bound).abs() < 2 * MARGIN, bound + 2 * MARGIN * torch.sign(shift - bound), shift)
    # Old log-probs against which the exact log s are the shifts, up to float32's rounding of them.
    old = (x.old_logp.double() + exact[:, None] - shift[:, None]).float()
    x = x._replace(old_logp=old)
    log_s, clipped, gradients = truth(x)
    clear = (log_s - bound).abs() >= MARGIN
    for name, run in candidates.items():
        found = run(x)
        silent = (found[0] == 0).flatten(1).all(1)
        errors = [float((a.double() - b).norm() / b.norm()) for a, b in zip(found, gradients, strict=True)]
        yield {
            "kind": "check",
            "name": name,
            "shape": [n, length, width, vocabulary],
            "clipped": int(clipped.sum()),
            "sequences": n,
            "clear_cases": int(clear.sum()),
            "wrong_clip_decisions": int((silent != clipped)[clear].sum()),
            "hidden_error": errors[0],
            "head_error": errors[1],
        }


def timed(run: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """(median, spread) of the milliseconds between CUDA events, after one warm-up."""
    run()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times), max(times) - min(times)


def beyond_gradients(run: Implementation, x: Problem) -> float:
    """MiB at the peak of a call, beyond its inputs and the two gradients."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    gradients = run(x)
    peak = torch.cuda.max_memory_allocated() - before
    return (peak - sum(g.nbytes for g in gradients)) / MIB


@contextmanager
def failure_is_a_result(record: dict[str, Any]) -> Iterator[None]:
    """Report an implementation that does not fit or compile; the others still run."""
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError, AssertionError) as error:
        record["failed"] = f"{type(error).__name__}: {str(error)[:160]}"
    torch.cuda.empty_cache()


def measure(tokens: int, width: int, skip: float, candidates: dict[str, Implementation], repeats: int) -> Iterator[Any]:
    """Time and memory of each implementation on one shape."""
    torch._dynamo.reset()  # Liger compiles its loss: for this shape, not for the last one and this one
    length = {8192: 1024, 32768: 2048}.get(tokens, 4096)
    x = problem(tokens // length, length, width, VOCABULARY, "cuda", skip=skip)
    base, spread = timed(lambda: floor(x), repeats)
    yield {"kind": "floor", "tokens": tokens, "width": width, "skip": skip, "ms": base, "spread_ms": spread}
    for name, run in candidates.items():
        record: dict[str, Any] = {"kind": "time", "name": name, "tokens": tokens, "width": width, "skip": skip}
        with failure_is_a_result(record):
            record["ms"], record["spread_ms"] = timed(lambda run=run: run(x), repeats)  # type: ignore[misc]  # lambda of the loop
            record["times_floor"] = record["ms"] / base
            record["memory_mib"] = beyond_gradients(run, x)
            record["allowed_mib"] = 256 + 4 * tokens * width / MIB
        yield record


def schedule(seconds: float) -> Iterator[Any]:
    """Everything worth knowing first, so that a limit cuts the least."""
    start = time.perf_counter()
    peers: dict[str, Implementation] = {"naive": naive}
    if LigerFusedLinearGRPOLoss is not None:
        peers |= {"liger": liger, "liger tf32": liger_tf32}
    mine: dict[str, Implementation] = {"ours": ours, "ours, plain torch": plain}
    yield from check(256, 64, 2048, VOCABULARY, "cuda", mine | peers)
    for tokens in (8192, 32768, 131072):
        for width in (2048, 4096, 1024):
            for skip, candidates in ((0.0, mine | peers), (0.5, {"ours": ours})):
                if time.perf_counter() - start > seconds:
                    yield {"kind": "cut", "tokens": tokens, "width": width, "skip": skip}
                    continue
                yield from measure(tokens, width, skip, candidates, repeats={8192: 7, 32768: 3}.get(tokens, 1))


def main() -> None:
    """Prints a line of JSON per finding; --json keeps them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="correctness on small shapes only")
    parser.add_argument("--json", type=Path, help="where to write the record")
    parser.add_argument("--limit", type=float, default=400.0, help="seconds after which no new shape is begun")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not options.check and device == "cpu":
        parser.error("no GPU found; --check runs on a CPU")
    record: dict[str, Any] = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "fused": two_pass.kernels is not None,
        "findings": [],
    }
    found = check(16, 8, 64, 1000, device, {"ours": ours, "ours, plain torch": plain, "naive": naive})
    for finding in found if options.check else schedule(options.limit):
        record["findings"].append(finding)
        print(json.dumps(finding), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
