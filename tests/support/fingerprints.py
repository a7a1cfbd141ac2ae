"""Fingerprints of what the library computes, a line per quantity: compare two commits with `diff`.

    PYTHONPATH=.:backends OMP_NUM_THREADS=1 python tests/support/fingerprints.py > after.txt
    git worktree add ../before COMMIT; cd ../before
    PYTHONPATH=.:backends OMP_NUM_THREADS=1 python .../fingerprints.py > before.txt; diff before.txt after.txt

A line is a name and the first 16 hex digits of the SHA-256 of the bytes: two lines are equal if every bit is. Names that
moved or were renamed are looked up in every public package, so that the script runs on commits before and after a move.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

PACKAGES = ("objectives", "layouts", "advantages", "mismatch", "kl", "metrics", "clip_range", "planning", "routing", "backend")
HOMES = ["gspo_core", *(f"gspo_core.{package}" for package in PACKAGES)]
OLD_NAMES = {"Turn": "Segment", "TurnToken": "SegmentToken"}
PRESETS = (
    *("GSPO", "GSPO_TOKEN", "GRPO", "ASPO", "BNPO", "CISPO", "DAPO", "DEEPSEEK_V3_2", "DR_GRPO", "FSPO", "GATE_ONLY_GSPO"),
    *("GMPO", "LUSPO", "SAPO", "VESPO"),
)
N, T, K, H, V = 12, 23, 3, 16, 40


def find(name: str) -> Any:
    """A public name of the core, wherever this commit has it."""
    for home in HOMES:
        try:
            module = importlib.import_module(home)
        except ImportError:
            continue
        for spelling in (name, OLD_NAMES.get(name, name)):
            if hasattr(module, spelling) and not isinstance(getattr(module, spelling), type(importlib)):
                return getattr(module, spelling)
    raise KeyError(name)


def digest(x: Any) -> str:
    """Of every bit, the dtype and the shape."""
    array = np.ascontiguousarray(np.asarray(x))
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()[:16]


def show(name: str, x: Any) -> None:
    """One line per array."""
    if x is None or isinstance(x, (bool, str)):
        print(f"{name} {x}")
    elif callable(x):
        return
    elif hasattr(x, "_fields") or hasattr(x, "log_ratio"):
        for field in ("value", "logp_grad", "log_ratio", "clipped", "denominator") if hasattr(x, "log_ratio") else x._fields:
            show(f"{name}.{field}", getattr(x, field))
    elif isinstance(x, dict):
        for key in sorted(x):
            show(f"{name}.{key}", x[key])
    elif isinstance(x, (list, tuple)):
        for i, item in enumerate(x):
            show(f"{name}.{i}", item)
    elif dataclasses.is_dataclass(x):
        for field in dataclasses.fields(x):
            show(f"{name}.{field.name}", getattr(x, field.name))
    else:
        print(name, digest(x.detach().numpy() if hasattr(x, "detach") else x))


def draws(dtype: Any) -> dict[str, np.ndarray]:
    """A ragged batch with an empty row, ratios on both sides of GSPO's clip range, poison in masked slots."""
    rng = np.random.default_rng(7)
    mask = np.arange(T) < rng.integers(1, T + 1, size=(N, 1))
    mask[4], mask[:, 5] = False, mask[:, 5] & (rng.random(N) < 0.5)
    old = -rng.exponential(size=(N, T))
    logp = old + 5e-4 * rng.normal(size=(N, 1)) + 2e-3 * rng.normal(size=(N, T))
    found = {
        "logp": logp,
        "old": old,
        "sampler": old + 0.02 * rng.normal(size=(N, T)),
        "ref": old + 0.3 * rng.normal(size=(N, T)),
    }
    found = {name: np.where(mask, x, np.nan).astype(dtype) for name, x in found.items()}
    advantage = np.where(rng.random(N) < 0.2, 0.0, rng.normal(size=N)).astype(dtype)
    per_token = (advantage[:, None] * rng.uniform(0.5, 1.5, size=(N, T))).astype(dtype)
    turns = np.minimum(np.arange(T) // 6, K - 1) + np.zeros((N, 1), dtype=np.int64)
    return found | {"mask": mask, "advantage": advantage, "token_advantage": per_token, "turns": turns}


def layouts(d: dict[str, Any]) -> dict[str, tuple[Any, Callable[[Any], Any]]]:
    """Layouts, and how a padded array is laid out in each."""
    padded = find("Padded")(d["mask"])
    ids = np.where(d["mask"], np.arange(N)[:, None], -1).reshape(-1)
    packed = find("Packed")(ids, N)
    return {
        "padded": (padded, lambda x: x),
        "packed": (packed, lambda x: x.reshape(-1)),
        "sharded": (find("sharded")(padded, lambda x: x), lambda x: x),
        "restricted": (find("Restricted")(padded, np.arange(N * T).reshape(N, T) % 3 > 0), lambda x: x),
        "turns": (find("Turns")(padded, d["turns"], K), lambda x: x),
    }


def core(dtype: Any) -> None:
    """Losses, metrics and everything beside them, in NumPy."""
    d = draws(dtype)
    tag, loss_of = np.dtype(dtype).name, find("policy_loss")
    for where, (layout, lay) in layouts(d).items():
        batch = [lay(d["logp"]), lay(d["old"])]
        for name in PRESETS:
            objective = find(name)
            loss = loss_of(objective, *batch, d["advantage"], layout)
            show(f"{tag}.{where}.{name}", loss)
            metrics = find("batch_metrics")(objective, loss, *batch, d["advantage"], layout)
            show(f"{tag}.{where}.{name}.summary", find("summary")(metrics))
        token = find("PerToken")(lay(d["token_advantage"]))
        show(f"{tag}.{where}.per-token", loss_of(find("GSPO_TOKEN"), *batch, token, layout, denominator=17.0))
        show(f"{tag}.{where}.on-policy", loss_of(find("GSPO"), batch[0], None, d["advantage"], layout, on_policy=True))
        for name in ("K1", "K2", "K3", "TokenKL", "SequenceKL"):
            estimator = find(name)()
            old = {"old_logp": batch[1]} if estimator.off_policy else {}
            mean = find("SequenceMean")()
            show(f"{tag}.{where}.{name}", find("kl_penalty")(estimator, batch[0], lay(d["ref"]), layout, reduction=mean, **old))
        for name in ("TIS", "MIS", "ICEPOP", "GEO_RS"):
            show(f"{tag}.{where}.{name}", find("sampler_weight")(find(name), batch[1], lay(d["sampler"]), layout))
        show(f"{tag}.{where}.drift", find("estimate_drift")(*batch, layout))
    turn = find("Objective")(find("Turn")(), find("Clip")(3e-4, 4e-4), find("TurnMean")())
    turn_token = find("Objective")(find("TurnToken")(), find("Clip")(3e-4, 4e-4), find("SequenceMean")())
    layout = layouts(d)["turns"][0]
    for label, objective in (("turn", turn), ("turn-token", turn_token)):
        show(f"{tag}.{label}", loss_of(objective, d["logp"], d["old"], d["advantage"], layout))


def advantages() -> None:
    """Advantages, plans and clip ranges."""
    rng = np.random.default_rng(11)
    rewards, groups = rng.integers(0, 3, size=24) / 2.0, np.repeat(np.arange(6), 4)
    rewards[4:8] = 1.0
    show("group_advantages", find("group_advantages")(rewards, groups))
    for name in ("Centred", "LeaveOneOut", "BatchStd", "MaxRL", "ZScore"):
        show(f"group_advantages.{name}", find("group_advantages")(rewards, groups, find(name)()))
    show("plan", find("plan")(rewards.tolist(), groups.tolist()).advantage)
    lengths, log_s = rng.integers(5, 300, size=200), 3e-4 * rng.normal(size=200)
    pilot = find("Pilot")(log_s.tolist(), lengths.tolist(), rng.normal(size=200).tolist())
    clip = find("clip_range_for")(0.15, pilot)
    show("clip_range_for", [clip.low, clip.high])


def torch_side() -> None:
    """Gradients of PyTorch's functions, and the fused head in both schemes."""
    gspo_torch, torch = importlib.import_module("gspo_torch"), importlib.import_module("torch")
    torch.set_num_threads(1)
    for dtype in (np.float32, np.float64):
        d, tag = draws(dtype), f"torch.{np.dtype(dtype).name}"
        x = {k: torch.from_numpy(np.asarray(v)) for k, v in d.items()}
        layout = find("Padded")(x["mask"])
        for name in PRESETS:
            logp = x["logp"].clone().requires_grad_()
            loss = gspo_torch.policy_loss(find(name), logp, x["old"], x["advantage"], layout)
            loss.value.backward()
            show(f"{tag}.{name}", [loss.value, logp.grad])
        rng = np.random.default_rng(3)
        kind = torch.float32 if dtype is np.float32 else torch.float64
        hidden = torch.from_numpy(rng.normal(size=(N, T, H))).to(kind).requires_grad_()
        head = torch.from_numpy(rng.normal(size=(V, H)) / 4).to(kind).requires_grad_()
        tokens = torch.from_numpy(rng.integers(0, V, size=(N, T)))
        logp = gspo_torch.token_logp(hidden, head, tokens, temperature=0.7)
        logp.sum().backward()
        show(f"{tag}.token_logp", [logp, hidden.grad, head.grad])
        for name in ("GSPO", "GSPO_TOKEN", "GRPO"):
            for budget in (0, 2**28):
                hidden.grad = head.grad = None
                old = logp.detach() + 1e-3 * torch.from_numpy(rng.normal(size=(N, T))).to(kind)
                args = (find(name), hidden, head, tokens, old, x["advantage"], layout)
                loss = gspo_torch.linear_policy_loss(*args, temperature=0.7, budget_bytes=budget, return_logp=True)
                loss.value.backward()
                show(
                    f"{tag}.linear.{name}.{budget}",
                    [loss.value, loss.logp_grad, loss.log_ratio, loss.logp, hidden.grad, head.grad],
                )


def jax_side() -> None:
    """The same in JAX, float32."""
    gspo_jax, jax = importlib.import_module("gspo_jax"), importlib.import_module("jax")
    jnp, d = jax.numpy, draws(np.float32)
    x = {k: jnp.asarray(v) for k, v in d.items()}
    layout = find("Padded")(x["mask"])
    for name in PRESETS:

        def value(logp: Any, name: str = name) -> Any:
            return gspo_jax.policy_loss(find(name), logp, x["old"], x["advantage"], layout).value

        show(f"jax.{name}", jax.value_and_grad(value)(x["logp"]))
    rng = np.random.default_rng(3)
    hidden, head = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((N, T, H), (V, H)))
    tokens = jnp.asarray(rng.integers(0, V, size=(N, T)))
    logp = gspo_jax.token_logp(hidden, head / 4, tokens)
    show("jax.token_logp", logp)
    for budget in (0, 2**28):

        def linear(hidden: Any, head: Any, budget: int = budget) -> Any:
            args = (find("GSPO"), hidden, head, tokens, logp + 1e-3, x["advantage"], layout)
            return gspo_jax.linear_policy_loss(*args, budget_bytes=budget).value

        show(f"jax.linear.{budget}", jax.value_and_grad(linear, argnums=(0, 1))(hidden, head / 4))


def main() -> None:
    """Everything, to standard output."""
    warnings.simplefilter("ignore")
    for dtype in (np.float32, np.float64):
        core(dtype)
    advantages()
    torch_side()
    jax_side()


if __name__ == "__main__":
    main()
