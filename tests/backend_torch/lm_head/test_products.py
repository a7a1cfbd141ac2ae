"""Matrix products are right whoever computes them, and oneDNN is given only what it is good at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from gspo_torch.lm_head import products
from hypothesis import given
from hypothesis import strategies as st
from support.lm_head.agreement import assert_in_budget
from support.lm_head.cases import from_logits, make, ours
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

with_onednn = pytest.mark.skipif(not products._find_onednn(), reason="this PyTorch, or this processor, has no oneDNN operator")


@pytest.fixture(autouse=True)
def _on_any_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """What oneDNN computes is tested wherever it can, not only where it is faster."""
    monkeypatch.setattr(products, "ONEDNN", products._find_onednn())


class Given(TorchDispatchMode):
    """The shapes (m, k, n) of what oneDNN multiplies."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "_linear_pointwise" in str(func):
            self.shapes.append((*args[0].shape, len(args[1])))
        return func(*args, **(kwargs or {}))


@contextmanager
def small_units(unit: int = 4, piece: int = 8, least: int = 1) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "UNIT", unit)
        patch.setattr(products, "PIECE", piece)
        patch.setattr(products, "LEAST", least)
        yield


def operands(m: int, k: int, n: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b, out = (torch.randn(*size, generator=generator).to(dtype) for size in ((m, k), (k, n), (m, n)))
    return a, b, out


def standing(x: Tensor, how: str) -> Tensor:
    """The same numbers, elsewhere in memory."""
    if how == "transposed":
        return x.T.contiguous().T
    return torch.cat([x, x], 1)[:, : x.shape[1]] if how == "gaps" else x


def assert_product(a: Tensor, b: Tensor, out: Tensor, fresh: bool) -> None:
    """matmul is a @ b, or adds it, within one rounding per addend."""
    left, right = a.double(), b.double()
    before = torch.zeros(out.shape, dtype=torch.float64) if fresh else out.double().clone()
    truth, size = before + left @ right, before.abs() + left.abs() @ right.abs()
    products.matmul(a, b, out, fresh)
    assert ((out.double() - truth).abs() <= torch.finfo(out.dtype).eps * (a.shape[1] + 1) * size).all()


@given(
    m=st.integers(0, 21),
    k=st.sampled_from([1, 5, 16]),
    n=st.sampled_from([1, 7, 16]),
    fresh=st.booleans(),
    stand=st.tuples(*[st.sampled_from(["rows", "transposed", "gaps"])] * 3),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
def test_a_product_is_right_wherever_its_operands_stand(
    m: int, k: int, n: int, fresh: bool, stand: tuple[str, str, str], dtype: torch.dtype
) -> None:
    """Rows for oneDNN, in two pieces, a shorter one, and the rest; with operands of lower precision, too."""
    a, b, out = operands(m, k, n, dtype)
    out = standing(out.to(torch.promote_types(dtype, torch.float32)), stand[2])
    with small_units():
        assert_product(standing(a, stand[0]), standing(b, stand[1]), out, fresh)


@with_onednn
def test_onednn_is_given_few_shapes() -> None:
    """Since it keeps code for each: whatever the rows, theirs are a piece or a multiple of the unit below it."""
    shapes: set[tuple[int, int, int]] = set()
    for m in range(40):
        a, b, out = operands(m, 5, 3)
        with small_units(), Given() as given_:
            products.matmul(a, b, out)
        assert sum(shape[0] for shape in given_.shapes) == m // 4 * 4
        shapes.update(given_.shapes)
    assert shapes == {(4, 5, 3), (8, 5, 3)}


@with_onednn
@pytest.mark.parametrize(("left", "right"), [("rows", "rows"), ("gaps", "rows")])
def test_onednn_multiplies_what_suits_it(left: str, right: str) -> None:
    """The guard of the next test."""
    assert given_to_onednn(left, right) == 1


@with_onednn
@pytest.mark.parametrize(("left", "right"), [("transposed", "rows"), ("rows", "gaps"), ("rows", "transposed")])
def test_what_onednn_would_copy_or_crawl_through_stays_where_it_was_and_so_do_logits(left: str, right: str) -> None:
    assert given_to_onednn(left, right) == 0


@with_onednn
def test_small_products_doubles_and_those_of_who_switched_it_off_stay_where_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, out = operands(8, 16, 16)
    with small_units(least=4 * 16 * 16 + 1), Given() as small:
        products.matmul(a, b, out)
    with small_units(), Given() as wide:
        products.matmul(a.double(), b.double(), out.double())
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    with small_units(), Given() as switched_off:
        products.matmul(a, b, out)
    assert not small.shapes + wide.shapes + switched_off.shapes


def given_to_onednn(left: str, right: str) -> int:
    """How often, for one product of operands that stand like this."""
    a, b, out = operands(8, 16, 16)
    with small_units(), Given() as given_:
        products.matmul(standing(a, left), standing(b, right), out)
    return len(given_.shapes)


def test_an_operator_with_other_arguments_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_SCHEMA", products._SCHEMA.replace("Tensor? B, ", ""))
    assert not products._find_onednn()


@pytest.mark.parametrize(("text", "expected"), [("vendor_id\t: AuthenticAMD\n", True), ("vendor_id\t: GenuineIntel\n", False)])
def test_it_is_used_on_the_processors_where_it_is_faster(tmp_path: Path, text: str, expected: bool) -> None:
    (tmp_path / "cpuinfo").write_text(text, encoding="utf-8")
    assert products.is_of_amd(tmp_path / "cpuinfo") == expected
    assert not products.is_of_amd(tmp_path / "none")


@pytest.mark.slow
@pytest.mark.parametrize("bytes_", [0, 2**28], ids=["two-pass", "aligned"])
@pytest.mark.parametrize("onednn", [True, False], ids=["oneDNN", "without"])
def test_both_schemes_keep_their_error_budget_at_sizes_that_onednn_takes(
    bytes_: int, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two blocks of the vocabulary, whose short one is too small for it; a piece, a shorter one and a rest of rows."""
    problem = make(lengths=(300, 200, 0, 157), width=256, vocabulary=4500).to(torch.float32)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", onednn)
    with Given() as given_:
        answer = ours(problem, budget_bytes=bytes_, return_logp=True)
    assert_in_budget(problem, answer, from_logits(problem))
    if products.ONEDNN and onednn:
        assert {shape[0] for shape in given_.shapes} <= {128, 256}
        assert {shape[1:] for shape in given_.shapes} == {(4080, 256)}
    else:
        assert not given_.shapes
