"""docs/family.md has one row per preset, its numbers are the preset's, and each row's formula of the weight is the weight."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from support.budgets import assert_within
from support.cases import Batch, core_loss
from support.family import PRESETS
from support.libraries import NUMPY
from support.repository import ROOT

import gspo_core
import gspo_core.objectives

PAGE = (ROOT / "docs" / "family.md").read_text(encoding="utf-8")
SCOPE = {**vars(gspo_core), **vars(gspo_core.objectives)}
ROW = re.compile(r"^\| `([A-Z0-9_]+)`((?:[^|\\]|\\\|)*) \| (.*) \|$", flags=re.MULTILINE)
ROWS = {
    name: (numbers.strip(), [cell.strip() for cell in re.split(r"(?<!\\)\|", rest)])
    for name, numbers, rest in ROW.findall(PAGE)
}


def numbers_of(value: Any) -> set[float]:
    """Every number in a preset, through nested dataclasses."""
    if dataclasses.is_dataclass(value):
        return {n for field in dataclasses.fields(value) for n in numbers_of(getattr(value, field.name))}
    return {float(value)} if isinstance(value, (int, float)) else set()


def defaults_of(value: Any) -> set[float]:
    """The numbers in a preset that its choices have by default: `Band.length_power`, `TruncatedWeight.floor`."""
    if not dataclasses.is_dataclass(value):
        return set()
    fields = [(field.default, getattr(value, field.name)) for field in dataclasses.fields(value)]
    own = {float(chosen) for default, chosen in fields if isinstance(chosen, (int, float)) and default == chosen}
    return own.union(*(defaults_of(chosen) for _, chosen in fields))


def test_every_preset_has_a_row_and_every_row_a_preset() -> None:
    assert set(ROWS) == set(PRESETS)
    assert len(ROW.findall(PAGE)) == len(PRESETS)


def test_every_preset_is_under_a_trainers_name_or_said_to_be_under_none() -> None:
    """And what the table of trainers has in backticks and capitals is a preset."""
    start = PAGE.index("## From a trainer's name to ours")
    section = PAGE[start : PAGE.index("Out of scope so far", start)]
    named = set(re.findall(r"`([A-Z][A-Z0-9_]{2,})`", section))
    assert named == set(PRESETS)


REGISTERED = {
    "TRL": """grpo dr_grpo dapo bnpo cispo sapo luspo vespo delta off_policy_mask_threshold top_entropy_quantile gmpo gspo_token
        dppo a2po gold sdpo sdft minillm iw_opd""",
    "verl": """vanilla dppo_tv dppo_kl gspo sapo gpg clip_cov kl_cov geo_mean dro cispo bypass_mode gae grpo gdpo grpo_passk
        reinforce_plus_plus reinforce_plus_plus_baseline rloo opo remax optimal_token_baseline tir_optimal_token_baseline
        token-mean token-sum seq-mean-token-sum seq-mean-token-sum-norm seq-mean-token-mean""",
    "SkyRL": """regular dual_clip gspo cispo rollout_is clip_cov kl_cov sapo importance_sampling dppo binary_tv binary_kl maxrl
        token_mean sequence_mean seq_mean_token_sum_norm prompt_mean cross_entropy""",
    "ROLL": "vanilla ppo tis topr cispo kimi15 gae reinforce grpo gigpo step_reinforce agentic_reinforce segment",
    "slime": "grpo gspo cispo reinforce++ ppo OPSM TIS IcePop --use-opd",
    "NeMo-RL": "CISPO tis icepop seq-mask-tis VAPO gdpo reinforce++ MOPD",
    "AReaL": "decoupled SAPO m2_threshold sequence distillation",
    "prime-rl": "ipo ref_kl ce max_rl kl_tau",
    "ms-swift": "fipo REAL CHORD gdpo sequence_token",
    "open-instruct": "dapo cispo rho",
}
"""What the ten trainers register: names of objectives, advantage estimators, ways to average and weights, read in 2026."""


@pytest.mark.parametrize("trainer", REGISTERED)
def test_every_name_that_a_trainer_registers_is_on_the_page(trainer: str) -> None:
    """As a preset, a line that a test runs, or out of scope; in a row that names the trainer."""
    rows = [line.lower() for line in PAGE.splitlines() if line.startswith("|") and trainer.lower() in line.lower()]
    text = "\n".join(rows) + "\n" + PAGE[PAGE.index("A baseline for every place") :].split("\n\n")[0]
    found = {name: re.search(rf"(?<![\w-]){re.escape(name.lower())}(?![\w+-])", text) for name in REGISTERED[trainer].split()}
    assert [name for name, match in found.items() if match is None] == []


@pytest.mark.parametrize("name", PRESETS)
def test_a_row_is_complete(name: str) -> None:
    numbers, cells = ROWS[name]
    value, weight, when, source = cells
    assert "A" in value
    assert "A" in weight
    assert len(when.split()) >= 2
    assert re.search(r"arXiv \d{4}\.\d{5}|this package|TRL", source)
    assert numbers


@pytest.mark.parametrize("name", PRESETS)
def test_the_numbers_of_a_row_are_the_presets(name: str) -> None:
    """Every number behind the name is in the preset, and the other way round, but for factors of 1 and defaults."""
    written = {float(x) for x in re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", ROWS[name][0])}
    assert written <= numbers_of(PRESETS[name])
    assert written >= numbers_of(PRESETS[name]) - defaults_of(PRESETS[name]) - {1.0}


def test_a_number_that_is_missing_in_a_row_would_be_found() -> None:
    assert numbers_of(PRESETS["FSPO"]) - defaults_of(PRESETS["FSPO"]) == {0.03}
    assert numbers_of(PRESETS["DR_GRPO"]) - defaults_of(PRESETS["DR_GRPO"]) == {0.2, 3000.0}


def names(d: np.ndarray, advantage: np.ndarray, name: str) -> dict[str, Any]:
    """What the symbols of a weight's formula stand for, as [N, T] arrays; no padding. Numbers that a preset lacks are NaN."""
    n, length = d.shape
    w, a = np.exp(d), np.repeat(advantage[:, None], length, axis=1)
    mean = np.repeat(d.mean(axis=1, keepdims=True), length, axis=1)
    total = length * mean

    def of(choice: str, field: str) -> float:
        return float(getattr(getattr(PRESETS[name], choice), field, np.nan))

    def by_sign(good: str, bad: str) -> np.ndarray:
        return np.where(a > 0, of("surrogate", good), of("surrogate", bad))

    def u(r: np.ndarray) -> np.ndarray:
        return np.where(a > 0, r <= 1 + of("surrogate", "high"), r >= 1 - of("surrogate", "low"))

    clipped = np.where(a > 0, np.minimum(d, of("gate", "high")), np.maximum(d, -of("gate", "low")))
    moved, edges = np.exp(np.minimum(d, 0.0)) - 1.0, (of("gate", "low"), of("gate", "high"))
    above, below = moved > edges[1], moved < -edges[0]
    if not getattr(PRESETS[name].gate, "either_side", False):
        above, below = above & (a > 0), below & (a < 0)
    k, lam, tau = by_sign("k_pos", "k_neg"), by_sign("lam_pos", "lam_neg"), by_sign("tau_pos", "tau_neg")
    bound = of("gate", "width") * length ** of("gate", "length_power")
    return {
        "N": n, "L": length, "S": n * length, "A": a, "w": w, "s": np.exp(mean), "rho": np.exp(total), "u": u,
        "g": np.exp(clipped.mean(axis=1, keepdims=True)), "token_open": clipped == d,
        "within": np.where(a > 0, total <= bound, total >= -bound),
        "phi": lambda r: r**k * np.exp(lam * (1 - r)), "tau": tau, "sech2": lambda z: 1 / np.cosh(z) ** 2,
        "minimum": np.minimum, "inside": ~(above | below), "M": ~((a < 0) & (-mean > of("gate", "delta"))),
        "W": np.minimum(np.where(a > 0, 1 / w, w), of("surrogate", "cap")),
    }  # fmt: skip


SPELLING = [
    (r"\\\|y_i\\\|", "L"), (r"Σ\\\|y\\\|", "S"), (r"1\[token t not clipped\]", "token_open"),
    (r"1\[π_it inside\]", "inside"),
    (r"1\[\\\|log ρ_i\\\| within b_i on A's side\]", "within"), ("φ", "phi"), ("ρ_i", "rho"), ("sech²", "sech2"), ("τ", "tau"),
    ("−", "-"), (r"min\(", "minimum("), (r"_it?\b", ""), (r"tau\(", "tau*("), (r"(?<=[\w)\]]) (?=[\w(])", " * "),
]  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_a_rows_weight_is_what_the_preset_gives(name: str) -> None:
    """The cell itself is evaluated: Σ|y| is N·T here."""
    rng = np.random.default_rng(3)
    d = np.repeat(10.0 ** np.linspace(-4, 0.2, 8), 2)[:, None] * rng.uniform(0.5, 1.0, (16, 3)) * rng.choice([-1, 1], (16, 1))
    advantage = np.tile([1.0, -1.0, -0.5, 0.5], 4)
    formula = ROWS[name][1][1]
    for written, python in SPELLING:
        formula = re.sub(written, python, formula)
    expected = eval(formula, {}, names(d, advantage, name))
    batch = Batch(d, np.zeros_like(d), np.ones(d.shape, dtype=bool), advantage, np.zeros_like(d), 0.2, 0.2)
    weight = -core_loss(NUMPY, PRESETS[name], batch).logp_grad
    assert (weight != 0).any()
    assert_within(weight, np.broadcast_to(expected, d.shape), 1e-11 * np.abs(weight) + 1e-18)


BY_CONSTRUCTION = re.findall(r"^\| `(Objective\([^`]*)` \| (.*) \|$", PAGE, flags=re.MULTILINE)
TURN_SPELLING = [
    (r"\\\|y_ik\\\|", "Lk"), (r"\\\|y_i\\\|", "L"), (r"_i[kt]?\b", ""), (r"(?<=[\w)]) (?=[\w(])", " * "),
]  # fmt: skip


def test_there_are_three_objectives_by_construction() -> None:
    assert len(BY_CONSTRUCTION) == 3
    assert {("Token" in name, "TurnMean" in name) for name, _ in BY_CONSTRUCTION} == {(0, 1), (0, 0), (1, 0)}


@pytest.mark.parametrize(("code", "rest"), BY_CONSTRUCTION, ids=[name for name, _ in BY_CONSTRUCTION])
def test_a_constructed_objectives_weight_is_what_its_row_says(code: str, rest: str) -> None:
    """Dialogues of two turns, of one and three tokens; the cell itself is evaluated, one row at a time."""
    objective = eval(code, SCOPE)
    rng = np.random.default_rng(4)
    d = (
        10.0 ** np.linspace(-5, -2, 24).reshape(12, 2)[:, [0, 1, 1, 1]]
        * rng.uniform(0.5, 1, (12, 4))
        * rng.choice([-1, 1], (12, 1))
    )
    turn, per_turn = np.array([0, 1, 1, 1]), rng.normal(size=(12, 2))
    log_s = np.stack([d[:, 0], d[:, 1:].mean(axis=1)], axis=1)[:, turn]
    a = rng.normal(size=(12, 4)) if objective.ratio.per_token else per_turn[:, turn]
    formula = re.split(r"(?<!\\)\|", rest)[1].strip()
    for written, python in TURN_SPELLING:
        formula = re.sub(written, python, formula)
    scope = {
        "A": a, "s": np.exp(log_s), "u": lambda s: np.where(a > 0, s <= 1 + 4e-4, s >= 1 - 3e-4), "N": 12, "K": 2, "L": 4,
        "Lk": np.array([1, 3, 3, 3]),
    }  # fmt: skip
    expected = eval(formula, {}, scope)
    layout = gspo_core.Turns(gspo_core.Padded(np.ones((12, 4), dtype=bool)), np.tile(turn, (12, 1)), 2)
    given = a if objective.ratio.per_token else per_turn
    weight = -gspo_core.policy_loss(objective, d, np.zeros((12, 4)), given, layout).logp_grad
    assert (weight == 0).any()
    assert (weight != 0).any()
    assert_within(weight, expected, 1e-12 * np.abs(expected))


def test_the_code_on_the_page_runs() -> None:
    scope: dict[str, Any] = {**SCOPE, "replace": dataclasses.replace}
    snippets = re.findall(r"`(replace\([^`]*)`", PAGE)
    assert len(snippets) == 2
    for snippet in snippets:
        assert isinstance(eval(snippet, scope), gspo_core.Objective)
