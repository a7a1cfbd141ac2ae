"""Four processes that compute every loss of `problems`, and meet models that cannot be spread. Started by test_scoring."""

from __future__ import annotations

import datetime
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import torch
import torch.distributed as dist
from gspo_torch import model_head
from support.spread.problems import CASES, FIT, LENGTHS, MIXING, WORLD, Case, inputs_of, model_of, plain_logp, responses
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from integration.on_torch.parallel import attention
from integration.on_torch.parallel.context import Context
from integration.on_torch.parallel.context_check import require_context
from integration.on_torch.parallel.scoring import spread_loss
from integration.on_torch.recompute import enable_recomputing, recomputing
from integration.on_torch.sampling.reading import FASTEST
from integration.on_torch.sampling.rollout import predicting_states
from integration.options.errors import UserError

NAMES = ("data", "context", "vocabulary")


def one_case(case: Case, mesh: DeviceMesh) -> dict[str, Any]:
    """This rank's answers, with gradients averaged over all ranks, as DDP and FSDP do."""
    model = model_of(case.family)
    if case.recomputed:
        enable_recomputing(model)
    data, context, vocabulary = case.mesh
    index = torch.arange(mesh["data"].get_local_rank(), len(LENGTHS), data)
    everything = responses(case.prompts)
    with torch.no_grad():
        given = inputs_of(case, plain_logp(model, everything)).rows(index)
    part, along = everything.rows(index), Context(mesh["context"].get_group(), case.zigzag)
    width = part.tokens.shape[1]
    head, again = model_head(model), recomputing(model) if case.recomputed else nullcontext()
    unmasked = Mock(side_effect=attention.causal_lower_right)
    spread = along.split(model, part) if context > 1 else nullcontext()
    with patch.object(attention, "causal_lower_right", unmasked), spread as split, again:
        hidden = predicting_states(model, part) if split is None else split.states()
        loss = spread_loss(
            case.objective, hidden, head, part, given.old_logp[:, :width], _cut(given.advantage, width),
            denominator=torch.tensor(float(len(LENGTHS)), dtype=torch.float64), kl=_cut(given.kl, width), split=split,
            vocabulary=mesh["vocabulary"].get_group() if vocabulary > 1 else None,
        )  # fmt: skip
        (loss.value * data * context).backward()
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad /= WORLD
    fields = {name: getattr(loss, name) for name in ("logp_grad", "log_ratio", "clipped", "logp", "entropy", "kl")}
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    used = [] if split is None else [int(split.layout().local.lengths().sum())]
    found = {**fields, "value": loss.value.detach(), "gradients": gradients}
    return {**found, "rows": index, "tokens": used, "unmasked": unmasked.call_count}


def _cut(x: Any, width: int) -> Any:
    """Token arrays to the columns that a part has."""
    if hasattr(x, "ref_logp"):
        return type(x)(x.estimator, x.ref_logp[:, :width], x.coefficient)
    return type(x)(x.values[:, :width]) if hasattr(x, "values") and not isinstance(x, torch.Tensor) else x


def refusals(context: Context) -> dict[str, str]:
    """What is said of models whose layers mix tokens otherwise than by attention, and of some that do not."""
    said = {}
    for family, sizes in {**MIXING, **FIT}.items():
        try:
            require_context(model_of(family, sizes).float(), context, FASTEST)
            said[family] = ""
        except UserError as error:
            said[family] = str(error)
    return said


def main(rank: int, folder: str) -> None:
    """All of it; answers go to a file."""
    torch.set_num_threads(1)
    patience = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", patience, WORLD, rank)
    meshes: dict[tuple[int, int, int], DeviceMesh] = {}
    answers: dict[str, Any] = {}
    for name, case in CASES.items():
        if case.mesh not in meshes:
            meshes[case.mesh] = init_device_mesh("cpu", case.mesh, mesh_dim_names=NAMES)
        answers[name] = one_case(case, meshes[case.mesh])
    answers["refusals"] = refusals(Context(meshes[1, 4, 1]["context"].get_group()))
    torch.save(answers, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
