"""No tensor of tokens × vocabulary anywhere, memory within the budget, and a head gradient as good for many sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import finalize

import gspo_torch
import pytest
import torch
from gspo_torch.lm_head import aligned, products
from support.lm_head.cases import WIDER
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gspo_core import Padded

VOCABULARY, WIDTH, TILE_ROWS, PER_SEQUENCE = 512, 4, 16, 8
TILE = TILE_ROWS * VOCABULARY


class Storages(TorchDispatchMode):
    """Notes the largest storage that any operation gives back, and the most bytes of such storages alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and x.untyped_storage()._cdata not in known | self._alive:
                self._note(x.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._alive.add(key)
        self.now += size
        self.largest, self.peak = max(self.largest, size), max(self.peak, self.now)
        finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


def case(num: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """(hidden [N, 8, H], head, tokens)."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(num, PER_SEQUENCE, WIDTH, generator=generator).to(dtype).requires_grad_()
    head = torch.randn(VOCABULARY, WIDTH, generator=generator).to(dtype).requires_grad_()
    return hidden, head, torch.randint(0, VOCABULARY, (num, PER_SEQUENCE), generator=generator)


def linear(budget_bytes: int, **options: Any) -> Callable[..., Tensor]:
    """Our loss with a budget."""

    def value(hidden: Tensor, head: Tensor, tokens: Tensor, old: Tensor, advantage: Tensor) -> Tensor:
        layout = Padded(torch.ones(tokens.shape, dtype=torch.bool))
        return gspo_torch.linear_policy_loss(
            WIDER, hidden, head, tokens, old, advantage, layout, budget_bytes=budget_bytes, **options
        ).value

    return value


def naive(hidden: Tensor, head: Tensor, tokens: Tensor, old: Tensor, advantage: Tensor) -> Tensor:
    """The obvious code."""
    logp = torch.log_softmax(hidden @ head.T, -1).gather(-1, tokens[..., None])[..., 0]
    return gspo_torch.policy_loss(WIDER, logp, old, advantage, Padded(torch.ones(tokens.shape, dtype=torch.bool))).value


def seen(path: Callable[..., Tensor], num: int, dtype: torch.dtype = torch.float32) -> tuple[Storages, int]:
    """(what a forward and backward over 8 · num tokens allocates, bytes of the gradients); about half of it clipped."""
    hidden, head, tokens = case(num, dtype)
    with torch.no_grad():
        old = gspo_torch.token_logp(hidden, head, tokens) + 0.1 * torch.arange(num)[:, None] % 2
    with Storages() as storages:
        path(hidden, head, tokens, old, torch.ones(num)).backward()
    return storages, hidden.nbytes + head.nbytes


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gspo_torch.lm_head.two_pass.TILE", (TILE_ROWS, VOCABULARY))
    monkeypatch.setattr("gspo_torch.lm_head.schemes.LEAST_CHUNK", 1)
    monkeypatch.setattr("gspo_torch.lm_head.blocks.CACHE", VOCABULARY)


ALIGNED = 32 * VOCABULARY * 4
SCHEMES = {"two-pass": (linear(0), TILE * 4), "aligned": (linear(ALIGNED), ALIGNED)}


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_largest_tensor_is_one_tile_whatever_the_number_of_tokens(scheme: str) -> None:
    """64 to 512 tokens. From 2048 on the states themselves, 4 numbers a token, would be larger."""
    path, tile = SCHEMES[scheme]
    assert [seen(path, n)[0].largest for n in (8, 64)] == [tile] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "terms", [{"entropy_bonus": 0.1}, {"soft_cap": 5.0}, {"temperature": 0.5, "return_logp": True}], ids=str
)
def test_other_terms_hold_no_logits_either(terms: dict[str, Any]) -> None:
    assert [seen(linear(0, **terms), n)[0].largest for n in (8, 64)] == [TILE * 4] * 2


@pytest.mark.slow
@pytest.mark.parametrize(("columns", "kept"), [(VOCABULARY, 0), (64, 192)], ids=["two passes", "a part is kept"])
def test_one_sequence_longer_than_the_budget_is_within_it(columns: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer of 4 rows, sequences of 8."""
    monkeypatch.setattr("gspo_torch.lm_head.two_pass.TILE", (2, VOCABULARY))
    monkeypatch.setattr("gspo_torch.lm_head.exponentials.COLUMNS", columns)
    assert aligned.Buffer(4 * VOCABULARY, VOCABULARY).kept(PER_SEQUENCE) == kept
    assert seen(linear(4 * VOCABULARY * 4), 32)[0].largest <= 4 * VOCABULARY * 4


def test_the_naive_path_is_seen() -> None:
    """The guard: the same measurement sees its logits, and that they are alive several times over."""
    for num in (8, 32):
        storages, _ = seen(naive, num)
        logits = num * PER_SEQUENCE * VOCABULARY * 4
        assert storages.largest == logits
        assert storages.peak >= 2 * logits


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bytes_", "dtype"),
    [(0, torch.float32), (0, torch.bfloat16), (ALIGNED, torch.bfloat16), (2 * ALIGNED, torch.float32)],
    ids=str,
)
def test_memory_beyond_the_gradients_is_within_the_budget(bytes_: int, dtype: torch.dtype) -> None:
    """Beside gradients and budget (two-pass: two tiles, for logits and their exponentials): a constant number of words
    per token and of states, hidden ones in the accumulator's float32. Nothing grows with tokens × vocabulary."""
    for num in (16, 64):
        storages, gradients = seen(linear(bytes_), num, dtype)
        tokens = num * PER_SEQUENCE
        states = tokens * WIDTH * 4 + VOCABULARY * WIDTH * 4
        assert storages.peak <= gradients + max(bytes_, 2 * TILE * 4) + 4 * states + 64 * tokens + 2**14


@pytest.mark.slow
def test_the_budget_covers_the_float32_sums_of_a_low_precision_head() -> None:
    """A buffer of 32 rows, four sequences, would fill it; beside 8 KiB of sums three have room."""
    wide, low = (seen(linear(ALIGNED), 64, dtype)[0].largest for dtype in (torch.float32, torch.bfloat16))
    assert wide == ALIGNED
    assert ALIGNED // 2 < low <= ALIGNED - VOCABULARY * WIDTH * 4


@pytest.mark.slow
@pytest.mark.skipif(not products._find_onednn(), reason="this PyTorch, or this processor, has no oneDNN operator")
def test_the_budget_covers_what_onednn_takes_beside_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """It copies pieces of logits out of sight of PyTorch: 128 rows, 256 KiB, beside a buffer that could fill 512 KiB."""
    for name, value in {"ONEDNN": True, "PIECE": 128, "UNIT": 8, "LEAST": 1}.items():
        monkeypatch.setattr(products, name, value)
    storages, _ = seen(linear(2**19), 64)
    assert 2**17 < storages.largest <= 2**19 - 128 * VOCABULARY * 4


def head_error(path: Callable[..., Tensor], sequences: int) -> float:
    """Relative error of the bfloat16 head's gradient against float64; 256 tokens in so many sequences, on policy."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(256, 32, generator=generator).bfloat16()
    head = torch.randn(64, 32, generator=generator).bfloat16().requires_grad_()
    tokens = torch.randint(0, 64, (256,), generator=generator)
    advantage = torch.randn(sequences, generator=generator)
    c = -(advantage / sequences / (256 // sequences)).double().repeat_interleave(256 // sequences)
    p = torch.softmax(hidden.double() @ head.detach().double().T, -1)
    truth = (c[:, None] * (torch.nn.functional.one_hot(tokens, 64) - p)).T @ hidden.double()
    shape = (sequences, 256 // sequences)
    gradient = torch.autograd.grad(path(hidden.reshape(*shape, 32), head, tokens.reshape(shape), advantage), head)[0]
    return ((gradient.double() - truth).norm() / truth.norm()).item()


def one_loss(bytes_: int) -> Callable[..., Tensor]:
    def value(hidden: Tensor, head: Tensor, tokens: Tensor, advantage: Tensor) -> Tensor:
        layout = Padded(torch.ones(tokens.shape, dtype=torch.bool))
        options = {"on_policy": True, "budget_bytes": bytes_}
        return gspo_torch.linear_policy_loss(WIDER, hidden, head, tokens, None, advantage, layout, **options).value

    return value


def one_by_one(hidden: Tensor, head: Tensor, tokens: Tensor, advantage: Tensor) -> Tensor:
    """A loss per sequence, whose head gradients autograd adds up in bfloat16: what chunked losses did."""
    parts = zip(hidden, tokens, advantage, strict=True)
    return sum(  # type: ignore[return-value]  # a sum of int
        one_loss(0)(h[None], head, t[None], a[None]) / len(tokens) for h, t, a in parts
    )


ROUNDING = torch.finfo(torch.bfloat16).eps / 2
"""What one correct rounding of the truth costs at most, relative to each entry, hence to the norm."""


@pytest.mark.parametrize("bytes_", [0, 2**20], ids=["two-pass", "aligned"])
def test_the_heads_gradient_is_as_good_for_many_sequences_as_for_one(bytes_: int) -> None:
    """Sums are float32 and rounded once: the error is that of one rounding, for 1 to 256 sequences."""
    for sequences in (1, 4, 16, 64, 256):
        assert head_error(one_loss(bytes_), sequences) <= ROUNDING


def test_sums_in_bfloat16_would_be_seen() -> None:
    """The guard: sequence by sequence the error grows, beyond one rounding."""
    few, many = (head_error(one_by_one, n) for n in (4, 64))
    assert many > 2 * few
    assert many > ROUNDING
