"""Every argument that is a Tensor and cannot be computed with is right, or refused by its name with the way out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gspo_torch
import pytest
import torch
import torch.distributed as dist
from gspo_torch import KLTerm
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from gspo_core import GRPO, GSPO, Packed, Padded, PerToken, SequenceMean
from gspo_core.kl import K3, TokenKL
from gspo_core.layouts import Turns

pytestmark = pytest.mark.slow

NUM, LENGTH, WIDTH, VOCABULARY = 2, 3, 8, 16


def arrays() -> dict[str, Tensor]:
    """Every tensor argument of every function."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    return {
        "hidden": normal(NUM, LENGTH, WIDTH),
        "lm_head": normal(VOCABULARY, WIDTH),
        "bias": normal(VOCABULARY),
        "tokens": torch.randint(0, VOCABULARY, (NUM, LENGTH), generator=generator),
        "logp": normal(NUM, LENGTH),
        "old_logp": normal(NUM, LENGTH),
        "ref_logp": normal(NUM, LENGTH),
        "advantage": normal(NUM),
        "layout": torch.ones(NUM, LENGTH) > 0,
        "denominator": torch.tensor(4.0),
    }


def linear(x: dict[str, Any]) -> Tensor:
    """The loss on hidden states, with a KL term."""
    batch = (x["hidden"], x["lm_head"], x["tokens"], x["old_logp"], x["advantage"], Padded(x["layout"]))
    kl = KLTerm(K3(), x["ref_logp"], 0.1)
    return gspo_torch.linear_policy_loss(GSPO, *batch, denominator=x["denominator"], bias=x["bias"], kl=kl).value


def log_probs(x: dict[str, Any]) -> Tensor:
    """The log-probs' sum."""
    return gspo_torch.token_logp(x["hidden"], x["lm_head"], x["tokens"], layout=Padded(x["layout"]), bias=x["bias"]).sum()


def scores(x: dict[str, Any]) -> Tensor:
    """The entropies' sum."""
    options = {"layout": Padded(x["layout"]), "bias": x["bias"], "entropy_gradient": True}
    return gspo_torch.token_scores(x["hidden"], x["lm_head"], x["tokens"], **options).entropy.sum()


def loss(x: dict[str, Any]) -> Tensor:
    """The loss of log-probs."""
    rest = (x["old_logp"], x["advantage"], Padded(x["layout"]))
    return gspo_torch.policy_loss(GSPO, x["logp"], *rest, denominator=x["denominator"]).value


def per_token(x: dict[str, Any]) -> Tensor:
    """The loss of log-probs with advantages per token, in a layout that holds another."""
    layout = Turns(Padded(x["layout"]), torch.zeros(NUM, LENGTH, dtype=torch.int64), 1)
    values = x["advantage"]
    if type(values) is Tensor and values.layout == torch.strided:
        values = values[:, None].expand(NUM, LENGTH)
    return gspo_torch.policy_loss(GRPO, x["logp"], x["old_logp"], PerToken(values), layout, denominator=x["denominator"]).value


def divergence(x: dict[str, Any]) -> Tensor:
    """A KL penalty."""
    rest = {"reduction": SequenceMean(), "old_logp": x["old_logp"], "denominator": x["denominator"]}
    return gspo_torch.kl_penalty(TokenKL(), x["logp"], x["ref_logp"], Padded(x["layout"]), **rest).value


HEAD = ("hidden", "lm_head", "bias", "tokens", "layout")
CALLS: dict[Callable[[dict[str, Any]], Tensor], tuple[str, ...]] = {
    linear: (*HEAD, "old_logp", "ref_logp", "advantage", "denominator"),
    log_probs: HEAD,
    scores: HEAD,
    loss: ("logp", "old_logp", "advantage", "layout", "denominator"),
    per_token: ("logp", "old_logp", "advantage", "layout", "denominator"),
    divergence: ("logp", "ref_logp", "old_logp", "layout", "denominator"),
}
CASES = [(call, name) for call, names in CALLS.items() for name in names]
every_argument = pytest.mark.parametrize(("call", "name"), CASES, ids=lambda x: getattr(x, "__name__", x))
TRAINED = ("hidden", "lm_head", "bias", "logp")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceMesh]:
    """One rank."""
    dist.init_process_group("gloo", f"file://{tmp_path_factory.mktemp('mesh')}/rendezvous", world_size=1, rank=0)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def graded(call: Callable[[dict[str, Any]], Tensor], x: dict[str, Any], but: str = "") -> tuple[Tensor, list[Tensor]]:
    """(value, gradients of the trained arguments), but one."""
    leaves = [name for name in TRAINED if name in CALLS[call] and name != but]
    held = {name: t.detach().clone().requires_grad_() if name in leaves else t for name, t in x.items()}
    value = call(held)
    return value.detach(), list(torch.autograd.grad(value, [held[name] for name in leaves])) if leaves else []


@every_argument
def test_a_distributed_tensor_is_a_head_or_refused(call: Any, name: str, mesh: DeviceMesh) -> None:
    x = arrays()
    placement = Shard(0) if x[name].ndim else Replicate()
    spread = {**x, name: distribute_tensor(x[name], mesh, [placement])}
    if name not in ("lm_head", "bias"):
        with pytest.raises(TypeError, match=rf"^{name}: expected a plain tensor, got a DTensor; pass its full_tensor\(\)"):
            call(spread)
        return
    spread[name].requires_grad_()
    (gradient,) = torch.autograd.grad(call(spread), spread[name])
    plain = {**x, name: x[name].clone().requires_grad_()}
    value = call(plain)
    assert torch.equal(call(spread), value)
    assert isinstance(gradient, DTensor)
    assert gradient.placements == spread[name].placements
    assert torch.equal(gradient.full_tensor(), torch.autograd.grad(value, plain[name])[0])


@every_argument
def test_a_sparse_tensor_is_refused(call: Any, name: str) -> None:
    x = arrays()
    with pytest.raises(TypeError, match=rf"^{name}: expected a dense tensor, got one of layout .*; pass its to_dense"):
        call({**x, name: x[name].to_sparse()})


@every_argument
def test_another_device_is_refused(call: Any, name: str) -> None:
    """Whatever the argument; if all of them are there, either nothing is read, or hidden says why not."""
    x = arrays()
    if name not in ("hidden", "logp"):
        like = "logp" if "logp" in CALLS[call] else "hidden"
        with pytest.raises(ValueError, match=rf"^{name}: expected the device of {like}, cpu, got meta"):
            call({**x, name: x[name].to("meta")})
        return
    everything = {key: t.to("meta") for key, t in x.items()}
    if name == "logp":
        assert call is per_token or call(everything).is_meta
        return
    with pytest.raises(TypeError, match=r"^hidden: expected a tensor with numbers, got one on the meta device"):
        call(everything)


@pytest.mark.parametrize("name", ["hidden", "lm_head", "bias"])
@pytest.mark.parametrize("call", [linear, log_probs, scores])
def test_a_parameter_in_float8_is_refused(call: Any, name: str) -> None:
    x = arrays()
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        with pytest.raises(TypeError, match=rf"^{name}: expected float16, .* got {dtype}; pass its to\(torch.bfloat16\)"):
            call({**x, name: x[name].to(dtype)})


@every_argument
def test_a_tensor_made_in_inference_mode_is_a_constant(call: Any, name: str) -> None:
    """Value and gradients are those of a copy; also when everything happens in inference mode."""
    x = arrays()
    with torch.inference_mode():
        made = x[name].clone()
        inside = call({key: t.clone() for key, t in x.items()})
    value, gradients = graded(call, {**x, name: made}, but=name)
    expected, wanted = graded(call, x, but=name)
    assert torch.equal(value, expected)
    assert torch.equal(inside, expected)
    assert len(gradients) == sum(other in CALLS[call] for other in TRAINED if other != name)
    for mine, theirs in zip(gradients, wanted, strict=True):
        assert torch.equal(mine, theirs)


def test_a_layout_made_in_inference_mode_is_one() -> None:
    x = arrays()
    with torch.inference_mode():
        layout = Packed(torch.tensor([0, 0, 1]), 2)
        shorter = replace(layout, num_sequences=1)
    logp = x["logp"][0].clone().requires_grad_()
    gspo_torch.policy_loss(GSPO, logp, x["old_logp"][0], x["advantage"], layout).value.backward()
    gspo_torch.policy_loss(GSPO, logp, x["old_logp"][0], x["advantage"][:1], shorter).value.backward()
    assert logp.grad is not None
    assert logp.grad.any()


def test_nested_tensors_are_refused() -> None:
    x = arrays()
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged)
    with pytest.raises(TypeError, match=r"^old_logp: expected a dense tensor, got one of layout nested; pass its to_padded"):
        loss({**x, "old_logp": nested})
