"""A micro-batch of TRL's trainer, its own loss and ours: forward, backward, time and peak memory on a CPU.

    make .venv-trainers/.installed && .venv-trainers/bin/python benchmarks/vs_trl.py [--case NAME ...] [--rounds N] [--quick]

Both are `_compute_loss` of a trainer, on the same weights and responses, in float32 with one thread, off policy; TRL's options
are those of GSPO (sequence level, loss_type="grpo"). TRL as it is scores every position of a row on a CPU and only valid ones
on a GPU; `trl, valid tokens` does on the CPU what it does there. `liger` is its chunked loss on the same hidden states. Each
first runs once in a process of its own, which measures its peak memory and compares its gradients with TRL's; then they run
by turns in one process.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
import trl.trainer.utils as host
from datasets import Dataset
from gspo_torch.trainers.trl import GSPOConfig, GSPOTrainer
from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss
from stopwatch import by_turns, in_child, machine, peak_of, ratios, spread
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from gspo_core import GSPO
from integration.parity.reference import START

RESULTS = Path(__file__).parent / "results" / "vs_trl.json"
CLIP = (0.2, 0.2)


class Case(NamedTuple):
    """A model and a micro-batch."""

    vocabulary: int
    hidden: int
    layers: int
    live: float
    """Share of the responses that have an advantage."""
    longest: int = 192


CASES = {
    "large vocabulary": Case(151936, 256, 4, 1.0),
    "large vocabulary, half without an advantage": Case(151936, 256, 4, 0.5),
    "heavy body": Case(32768, 512, 8, 1.0),
    "heavy body, half without an advantage": Case(32768, 512, 8, 0.5),
    "small vocabulary": Case(4096, 256, 4, 1.0),
}
QUICK = {"quick": Case(512, 32, 2, 0.5, 24)}
ARMS = ("trl", "trl, valid tokens", "liger", "ours")
PAIRS = (("trl", "ours"), ("trl, valid tokens", "ours"), ("liger", "ours"))


def batch(case: Case) -> dict[str, Any]:
    """16 responses to prompts of 8 tokens, a third as long to as long as the longest, as TRL hands them on."""
    random = torch.Generator().manual_seed(0)
    lengths = torch.linspace(case.longest / 3, case.longest, 16).long()
    mask = (torch.arange(case.longest) < lengths[:, None]).long()
    advantages = torch.tensor([1.0, -1.0]).repeat(8)
    advantages[torch.arange(16) % 4 >= 4 * case.live] = 0.0
    return {
        "prompt_ids": torch.randint(case.vocabulary, (16, 8), generator=random),
        "prompt_mask": torch.ones(16, 8, dtype=torch.long),
        "completion_ids": torch.randint(case.vocabulary, (16, case.longest), generator=random),
        "completion_mask": mask,
        "advantages": advantages,
        "num_items_in_batch": mask.sum(),
    }


def trainer_of(arm: str, case: Case) -> Any:
    """A trainer around a new model with the weights of seed 0."""
    torch.manual_seed(0)
    heads = max(2, case.hidden // 64)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=case.vocabulary, hidden_size=case.hidden, intermediate_size=3 * case.hidden, tie_word_embeddings=True,
            num_hidden_layers=case.layers, num_attention_heads=heads, num_key_value_heads=heads, head_dim=case.hidden // heads,
            pad_token_id=0, eos_token_id=1, bos_token_id=2,
        )
    )  # fmt: skip
    kind, config, options = GRPOTrainer, GRPOConfig, {"importance_sampling_level": "sequence", "loss_type": "grpo"}
    if arm == "ours":
        kind, config, options = GSPOTrainer, GSPOConfig, {"objective": GSPO.with_clip(*CLIP)}
    args = config(
        tempfile.gettempdir(), use_cpu=True, bf16=False, report_to=[], gradient_checkpointing=False, num_generations=4,
        per_device_train_batch_size=16, **options,
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": "unused"}] * 16)
    made: Any = kind(model, lambda **_: [], args, data, processing_class=AutoTokenizer.from_pretrained(START))
    made.current_gradient_accumulation_steps = 1
    made.model.train()
    return made


def prepared(arm: str, case: Case) -> Callable[[], Any]:
    """A call that runs forward and backward, and returns the gradients by name."""
    trainer, inputs = trainer_of(arm, case), batch(case)
    with torch.no_grad():
        ids, mask = (torch.cat([inputs[f"prompt_{x}"], inputs[f"completion_{x}"]], 1) for x in ("ids", "mask"))
        theirs = trainer_of("trl", case)
        logp = theirs._get_per_token_logps_and_entropies(theirs.model, ids, mask, case.longest, batch_size=4)[0]
    inputs["old_per_token_logps"] = logp + 0.1 * torch.randn(logp.shape, generator=torch.Generator().manual_seed(1))
    loss = LigerFusedLinearGRPOLoss(
        beta=0.0, use_ref_model=False, compiled=False, importance_sampling_level="sequence", loss_type="grpo"
    )
    if arm == "ours":
        trainer._denominator = torch.tensor(16.0)

    def run() -> dict[str, torch.Tensor]:
        host._use_triton = lambda _: arm == "trl, valid tokens"
        trainer.model.zero_grad()
        if arm == "liger":
            hidden = trainer.model.model(input_ids=ids, attention_mask=mask).last_hidden_state[:, -case.longest - 1 : -1]
            parts = (inputs["completion_ids"], inputs["completion_mask"].float(), inputs["advantages"])
            value = loss(hidden, trainer.model.lm_head.weight, *parts, old_per_token_logps=inputs["old_per_token_logps"])[0]
        else:
            value = trainer._compute_loss(trainer.model, dict(inputs))
        value.backward()
        return {name: p.grad for name, p in trainer.model.named_parameters()}

    return run


def checked(arm: str, case: Case) -> dict[str, float]:
    """Peak memory of one run, and the largest relative error of a gradient against TRL's; for a process of its own."""
    run = prepared(arm, case)
    found, peak = peak_of(run)
    expected = found if arm == "trl" else prepared("trl", case)()
    errors = [float((found[name] - g).norm() / g.norm()) for name, g in expected.items()]
    return {"peak_mib": round(peak), "gradient_error": float(f"{max(errors):.1e}")}


def measured(case: Case, rounds: int) -> dict[str, Any]:
    """Times by turns, peaks, and ratios TRL : ours."""
    alone = {arm: in_child(partial(checked, arm, case)) for arm in ARMS}
    for arm, found in alone.items():
        if not found["gradient_error"] < 1e-4:
            raise SystemExit(f"{arm}: gradients differ by {found['gradient_error']}")
    runs = {arm: prepared(arm, case) for arm in ARMS}
    for run in runs.values():
        run()
    times = by_turns(runs, rounds)
    tokens = int(batch(case)["completion_mask"].sum())
    cpu = {arm: [t.cpu for t in times[arm]] for arm in ARMS}
    return {
        "case": case._asdict(),
        "tokens": tokens,
        "arms": {
            arm: {**alone[arm], "cpu_s": (took := spread(cpu[arm])), "tokens_per_s": round(tokens / took["median"])}
            for arm in ARMS
        },
        "times_as_fast": {theirs: ratios(times[theirs], times[mine]) for theirs, mine in PAIRS},
        "memory": {theirs: round(alone[mine]["peak_mib"] / alone[theirs]["peak_mib"], 3) for theirs, mine in PAIRS},
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument(
        "--case", action="append", choices=CASES, help="default: all; the others in the record stay as they are"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a tiny case, nothing written")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    cases = QUICK if given.quick else {name: CASES[name] for name in given.case or CASES}
    before = json.loads(RESULTS.read_text(encoding="utf-8"))["cases"] if given.case and RESULTS.exists() else {}
    result = {"versions": {name: version(name) for name in ("trl", "liger_kernel", "transformers")}, "cases": before}
    for name, case in cases.items():
        result["cases"][name] = found = {"machine": machine(), **measured(case, given.rounds)}
        print(name, json.dumps({key: found[key] for key in ("times_as_fast", "memory")}), flush=True)
    if not given.quick:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
