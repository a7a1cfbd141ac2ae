"""Wrong calls of gspo_torch, one row per error. What it hands on to the core is refused by the core's own rows."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import gspo_torch
import numpy as np
import torch
import torch.distributed as dist
from support.errors.places import Row
from support.errors.rows import LAYOUT, ONES, ZEROS, T, V
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, distribute_tensor

from gspo_core import GSPO, Clip, Padded, SequenceMean, group_metrics, sharded
from gspo_core.kl import K3

MASK = torch.ones(2, 3) > 0
GOOD: dict[str, Any] = {
    "objective": GSPO,
    "hidden": torch.zeros(2, 3, 4),
    "lm_head": torch.zeros(5, 4),
    "tokens": torch.zeros(2, 3, dtype=torch.int64),
    "old_logp": torch.zeros(2, 3),
    "advantage": torch.ones(2),
    "layout": Padded(MASK),
}


def linear(**wrong: Any) -> Callable[[], Any]:
    """A loss on hidden states with some arguments replaced."""
    return lambda: gspo_torch.linear_policy_loss(**{**GOOD, **wrong})


def twice(**options: Any) -> None:
    """A second derivative through the head."""
    hidden = torch.ones(2, 3, 4, requires_grad=True)
    logp = gspo_torch.token_logp(hidden, torch.randn(5, 4), GOOD["tokens"], **options)
    (gradient,) = torch.autograd.grad(logp.sum(), hidden, create_graph=True)
    gradient.sum().backward()


def in_one_graph() -> Any:
    """A loss on hidden states while torch.compile traces; test_compile has it with the compiler itself."""
    with patch.object(torch.compiler, "is_compiling", lambda: True):
        return linear()()


def backward_twice() -> None:
    """A second backward through the aligned scheme, which keeps its gradients for one backward only."""
    hidden = torch.ones(2, 3, 4, requires_grad=True)
    head = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    loss = gspo_torch.linear_policy_loss(**{**GOOD, "hidden": hidden, "lm_head": head, "old_logp": None}, on_policy=True)
    loss.value.backward(retain_graph=True)
    loss.value.backward()


def one_rank(call: Callable[[Any], Any]) -> Any:
    """The call with a DTensor of zeros, on a mesh of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        return call(distribute_tensor(GOOD["old_logp"], init_device_mesh("cpu", (1,)), [Replicate()]))
    finally:
        dist.destroy_process_group()


def beside_a_larger_rank() -> None:
    """A layout of two sequences, while another rank has three."""
    with patch.object(dist, "all_reduce", lambda ends, *_, **__: ends.copy_(torch.tensor([3, -2]))):
        sharded(Padded(MASK), gspo_torch.sum_over())


SHARD = gspo_torch.VocabularyShard


def model_with(layer: Any, **text: Any) -> Any:
    """What `model_head` looks at."""
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(**text))
    return SimpleNamespace(config=config, get_output_embeddings=lambda: layer)


def adapted() -> torch.nn.Linear:
    """A head with an adapter, which changes nothing yet."""
    layer = torch.nn.Linear(2, 3)
    layer.register_parameter("delta", torch.nn.Parameter(torch.zeros(3, 2)))
    return layer


TORCH: list[Row] = [
    Row(
        T,
        ("logp: expected a torch tensor", "got numpy.ndarray"),
        lambda: gspo_torch.policy_loss(GSPO, ZEROS, ZEROS, ONES, LAYOUT),
    ),
    Row(
        T,
        ("logp: expected a torch tensor", "got numpy.ndarray"),
        lambda: gspo_torch.kl_penalty(K3(), ZEROS, ZEROS, LAYOUT, reduction=SequenceMean()),
    ),
    Row(T, ("layout: expected a layout such as Padded(mask)", "got Tensor"), linear(layout=MASK)),
    Row(T, ("hidden: expected a torch tensor", "got numpy.ndarray"), linear(hidden=np.zeros((2, 3, 4)))),
    Row(
        T,
        ("lm_head: expected a floating-point tensor", "got torch.int64"),
        linear(lm_head=torch.zeros(5, 4, dtype=torch.int64)),
    ),
    Row(T, ("tokens: expected int64 or int32 token ids", "got torch.float32"), linear(tokens=torch.zeros(2, 3))),
    Row(
        V,
        ("hidden: expected shape [..., H]", "got []"),
        lambda: gspo_torch.token_logp(torch.tensor(0.0), GOOD["lm_head"], torch.tensor(0)),
    ),
    Row(V, ("lm_head: expected [V, H] with H = 4 as in hidden [2, 3, 4]", "got [5, 3]"), linear(lm_head=torch.zeros(5, 3))),
    Row(
        V,
        ("tokens: expected [2], hidden without its last axis", "got [3]"),
        lambda: gspo_torch.token_logp(torch.zeros(2, 4), GOOD["lm_head"], torch.zeros(3, dtype=torch.int64)),
    ),
    Row(V, ("bias: expected [V] = [5]", "got [4]"), linear(bias=torch.zeros(4))),
    Row(
        V,
        ("lm_head: 5 rows from row 3 on do not fit into a vocabulary of 7",),
        linear(vocabulary=SHARD(3, 7, None)),
    ),
    Row(V, ("tokens: expected the device of hidden, cpu", "got meta"), linear(tokens=GOOD["tokens"].to("meta"))),
    Row(V, ("tokens: expected ids in [0, 5), the rows of lm_head", "from 9 to 9"), linear(tokens=GOOD["tokens"] + 9)),
    Row(T, ("temperature: expected a number", "got 'warm'"), linear(temperature="warm")),
    Row(V, ("temperature: expected a positive finite number", "got 0.0"), linear(temperature=0.0)),
    Row(T, ("soft_cap: expected a number",), linear(soft_cap="30")),
    Row(V, ("soft_cap: expected a positive finite number or None", "got -1.0"), linear(soft_cap=-1.0)),
    Row(T, ("vocabulary: expected a VocabularyShard or None", "got int"), linear(vocabulary=5)),
    Row(T, ("layout: expected a layout", "got the class Clip"), linear(layout=Clip)),
    Row(T, ("group: expected a ProcessGroup or None", "got str"), lambda: SHARD(0, 5, "gloo")),
    Row(T, ("group: expected a ProcessGroup or None", "got int"), lambda: gspo_torch.sum_over(1)),
    Row(T, ("metrics: expected Metrics", "got dict"), lambda: gspo_torch.merge_over({})),
    Row(
        T,
        ("metrics: expected Metrics of torch tensors", "got ndarray"),
        lambda: gspo_torch.merge_over(group_metrics(np.ones(2), np.zeros(2, dtype=int))),
    ),
    Row(T, ("return_entropy: expected True or False", "got 1"), linear(return_entropy=1)),
    Row(T, ("static: expected True or False", "got None"), lambda: twice(static=None)),
    Row(T, ("hidden: expected a tensor whose numbers can be read", "got one that torch.compile is tracing"), in_one_graph),
    Row(V, ("tokens: expected the layout's shape [1, 3]", "got [2, 3]"), linear(layout=Padded(MASK[:1]))),
    Row(T, ("layout: expected a layout of torch tensors", "got one of numpy.ndarray"), linear(layout=Padded(MASK.numpy()))),
    Row(V, ("layout: expected the device of hidden, cpu", "got meta"), linear(layout=Padded(MASK.to("meta")))),
    Row(T, ("tokens: expected a dense tensor", "torch.sparse_coo", "to_dense()"), linear(tokens=GOOD["tokens"].to_sparse())),
    Row(
        T,
        ("lm_head: expected float16, bfloat16, float32 or float64", "got torch.float8_e5m2", "to(torch.bfloat16)"),
        linear(lm_head=GOOD["lm_head"].to(torch.float8_e5m2)),
    ),
    Row(
        T,
        ("hidden: expected a tensor with numbers", "meta device"),
        lambda: gspo_torch.token_logp(*(GOOD[name].to("meta") for name in ("hidden", "lm_head", "tokens"))),
    ),
    Row(
        T,
        ("old_logp: expected a plain tensor, got a DTensor", "full_tensor()"),
        lambda: one_rank(lambda spread: linear(old_logp=spread)()),
    ),
    Row(V, ("budget_bytes: expected a whole number of at least 0", "got -1"), linear(budget_bytes=-1)),
    Row(
        V,
        ("entropy_bonus: expected a finite number", "got nan"),
        linear(entropy_bonus=float("nan")),
    ),
    Row(T, ("kl: expected a KLTerm(estimator, ref_logp, coefficient) or None", "got float"), linear(kl=0.1)),
    Row(
        T,
        ("estimator: expected an estimator such as TokenKL() or K3()", "got 'k3'"),
        lambda: gspo_torch.KLTerm("k3", GOOD["old_logp"], 0.1),
    ),
    Row(V, ("start: expected a whole number of at least 0 and at most 3", "got 1.5"), lambda: SHARD(1.5, 3, None)),
    Row(V, ("start: expected a whole number of at least 0 and at most 3", "got 4"), lambda: SHARD(4, 3, None)),
    Row(V, ("layout: expected the same number of sequences", "on every rank, got 2 to 3 (2 here)"), beside_a_larger_rank),
    Row(V, ("model: expected one with an LM head", "got SimpleNamespace"), lambda: gspo_torch.model_head(model_with(None))),
    Row(
        V,
        ("model: expected logits with a scale or with a cap", "got SimpleNamespace with both"),
        lambda: gspo_torch.model_head(model_with(torch.nn.Linear(2, 3), logit_scale=2.0, final_logit_softcapping=30.0)),
    ),
    Row(
        V,
        (
            "model: expected an LM head of which weight and bias alone are trained",
            "which has delta there, too",
            "modules_to_save",
        ),
        lambda: gspo_torch.model_head(model_with(adapted())),
    ),
    Row(RuntimeError, ("LM head: its gradient cannot be differentiated again", "log_softmax of full logits"), twice),
    Row(RuntimeError, ("linear_policy_loss: the aligned scheme", "pass budget_bytes=0"), backward_twice),
]
