"""Matrix products in every spelling, against naive loops: one MAC per pair of elements that meet."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.tracing.by_hand import both, flops, macs, only, really, zeros


def count_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Products of `a @ b`, one by one, with NumPy's rules for ranks."""
    rows, columns = (1, *a) if len(a) == 1 else a, (*b, 1) if len(b) == 1 else b
    batch_a, batch_b = rows[:-2], columns[:-2]
    rank = max(len(batch_a), len(batch_b))
    padded = [(1,) * (rank - len(batch)) + batch for batch in (batch_a, batch_b)]
    batch = [max(pair) if min(pair) else 0 for pair in zip(*padded, strict=True)]
    ranges = [range(size) for size in (*batch, rows[-2], columns[-1], rows[-1])]
    return sum(1 for _ in itertools.product(*ranges))


SHAPES = [
    ((5,), (5,)),
    ((5,), (5, 3)),
    ((4, 5), (5,)),
    ((4, 5), (5, 3)),
    ((2, 4, 5), (5,)),
    ((5,), (2, 5, 3)),
    ((2, 4, 5), (5, 3)),
    ((4, 5), (2, 5, 3)),
    ((2, 4, 5), (2, 5, 3)),
    ((3, 1, 4, 5), (2, 5, 3)),
    ((3, 1, 4, 5), (1, 2, 5, 3)),
    ((4, 0), (0, 3)),
    ((0, 5), (5, 3)),
]


@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_matmul_of_every_rank(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    found = both(lambda x, y: x @ y, zeros(*a), zeros(*b))
    assert found.macs == count_matmul(a, b)
    assert found.flops == 2 * found.macs


@st.composite
def products(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    batch = draw(st.lists(st.integers(1, 3), max_size=3))
    dims = st.integers(1, 4)
    rows, inner, columns = draw(dims), draw(dims), draw(dims)

    def side(last: tuple[int, ...]) -> tuple[int, ...]:
        kept = batch[draw(st.integers(0, len(batch))) :]
        return (*(size if draw(st.booleans()) else 1 for size in kept), *last)

    return side((rows, inner)), side((inner, columns))


@settings(max_examples=20, deadline=None)
@given(products())
def test_matmul_broadcasts(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = shapes
    assert macs(torch.matmul, zeros(*a), zeros(*b)) == count_matmul(a, b)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_einsum_of_two(data: st.DataObject) -> None:
    sizes = {letter: data.draw(st.integers(2, 4)) for letter in "bijk"}
    # b in both and in the result; i and k in one operand and the result; j summed: every letter is a loop
    left = "".join(data.draw(st.permutations("bij")))
    right = "".join(data.draw(st.permutations("bjk")))
    result = "".join(data.draw(st.permutations("bik")))
    operands = [zeros(*(sizes[letter] for letter in word)) for word in (left, right)]
    assert macs(lambda *x: torch.einsum(f"{left},{right}->{result}", *x), *operands) == math.prod(sizes.values())


@pytest.mark.parametrize(
    ("equation", "shapes", "expected"),
    [
        ("ij,ij->", [(2, 3), (2, 3)], (6, 0)),
        ("ij,ij->ij", [(2, 3), (2, 3)], (0, 6)),  # a product without a sum is elementwise
        ("i,j->ij", [(2,), (3,)], (0, 6)),
        ("ii->", [(3, 3)], (0, 3)),  # the trace: a sum over the diagonal
        ("ii->i", [(3, 3)], (0, 0)),
        ("ij->j", [(2, 3)], (0, 6)),
        ("ij,kj->", [(2, 3), (4, 3)], (3, 6 + 12)),  # i and k are summed first, then 3 MACs
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)], (24 + 40, 0)),
        ("...ij,jk->...ik", [(2, 2, 3), (3, 4)], (48, 0)),
    ],
)
def test_einsum(equation: str, shapes: list[tuple[int, ...]], expected: tuple[int, int]) -> None:
    found = both(lambda *x: torch.einsum(equation, *x), *(zeros(*shape) for shape in shapes))
    assert (found.macs, found.flops - 2 * found.macs) == expected


def test_linear() -> None:
    found = both(nn.Linear(5, 7), zeros(2, 3, 5))
    assert (found.macs, found.flops) == (6 * 35, 2 * 6 * 35 + 6 * 7)  # a bias per output
    assert macs(lambda x, w: F.linear(x, w), zeros(2, 5), zeros(5)) == 10


@pytest.mark.parametrize(
    ("name", "shapes", "products"),
    [
        ("addmm", [(2, 4), (2, 5), (5, 4)], 2 * 4 * 5),
        ("addmm", [(4,), (2, 5), (5, 4)], 2 * 4 * 5),
        ("addmv", [(4,), (4, 5), (5,)], 4 * 5),
        ("baddbmm", [(2, 4, 3), (2, 4, 5), (2, 5, 3)], 2 * 4 * 3 * 5),
        ("addbmm", [(4, 3), (2, 4, 5), (2, 5, 3)], 2 * 4 * 3 * 5),  # the batch is summed as well
    ],
)
def test_products_with_a_summand(name: str, shapes: list[tuple[int, ...]], products: int) -> None:
    operands = [zeros(*shape) for shape in shapes]
    out = getattr(torch, name)(*operands).numel()
    plain = both(lambda *x: getattr(torch, name)(*x), *operands)
    assert (plain.macs, plain.flops - 2 * products) == (products, out)  # one sum per element
    scaled = flops(lambda *x: getattr(torch, name)(*x, beta=2, alpha=3), *operands)
    assert scaled == 3 * out  # and a product for either factor
    assert flops(lambda *x: getattr(torch, name)(*x, beta=0), *operands) == 0


def test_vectors() -> None:
    assert macs(torch.dot, zeros(5), zeros(5)) == 5
    assert macs(torch.mv, zeros(3, 5), zeros(5)) == 15
    assert macs(torch.inner, zeros(2, 5), zeros(3, 5)) == 30
    assert (macs(torch.inner, zeros(2, 5), zeros()), flops(torch.inner, zeros(2, 5), zeros())) == (0, 10)
    assert (macs(torch.outer, zeros(4), zeros(3)), flops(torch.outer, zeros(4), zeros(3))) == (0, 12)
    assert macs(torch.addr, zeros(4, 3), zeros(4), zeros(3)) == 12


def test_chains() -> None:
    shapes = [zeros(2, 3), zeros(3, 4), zeros(4, 5)]
    assert macs(lambda *x: torch.linalg.multi_dot(x), *shapes) == 2 * 3 * 4 + 2 * 4 * 5
    assert macs(lambda a, b: torch.tensordot(a, b, dims=2), zeros(2, 3, 4), zeros(3, 4, 5)) == 2 * 5 * 12
    assert macs(lambda a: torch.matrix_power(a, 3), zeros(3, 3)) == 2 * 27


def test_bilinear() -> None:
    # per result W_k b takes 3 x 4 products, and a over it 3 or 4 more: the smaller way is not taken, 4 are
    found = both(nn.Bilinear(3, 4, 5), zeros(6, 3), zeros(6, 4))
    assert found.macs == 6 * 5 * (3 * 4 + 4)
    assert found.flops - 2 * found.macs == 6 * 5


@pytest.mark.parametrize(
    ("p", "products", "beside"),
    [(2.0, 5, 5 + 1), (1.0, 0, 3 * 5), (float("inf"), 0, 3 * 5), (3.0, 0, 4 * 5 + 1)],
)
def test_distances(p: float, products: int, beside: int) -> None:
    found = both(lambda a, b: torch.cdist(a, b, p=p), zeros(2, 3, 5), zeros(2, 4, 5))
    assert (found.macs, found.flops - 2 * found.macs) == (2 * 12 * products, 2 * 12 * beside)
    own = both(lambda a: F.pdist(a, p), zeros(4, 5))  # 4 x 3 / 2 pairs
    assert (own.macs, own.flops - 2 * own.macs) == (6 * products, 6 * beside)


def test_out_argument_and_complex_numbers() -> None:
    assert macs(lambda a, b: torch.mm(a, b, out=a.new_empty(2, 4)), zeros(2, 3), zeros(3, 4)) == 24
    c64 = torch.complex64
    # (a + bi)(c + di) accumulated: four products, four sums
    assert macs(torch.matmul, zeros(2, 3, dtype=c64), zeros(3, 4, dtype=c64)) == 4 * 24
    assert flops(torch.mul, zeros(6, dtype=c64), zeros(6, dtype=c64)) == 6 * 6
    assert flops(torch.mul, zeros(6, dtype=c64), zeros(6)) == 6 * 2  # with a real number: both parts
    assert flops(torch.mul, zeros(6), zeros(6, dtype=c64)) == 6 * 2
    assert flops(lambda x: x * 0.5, zeros(6, dtype=c64)) == 6 * 2
    assert flops(lambda x: x * 0.5j, zeros(6, dtype=c64)) == 6 * 6
    assert flops(lambda x: x / 2, zeros(6, dtype=c64)) == 6 * 2
    assert flops(lambda x: 2 / x, zeros(6, dtype=c64)) >= 6 * 11
    assert flops(torch.div, zeros(6), zeros(6, dtype=c64)) == 6 * 11
    assert flops(torch.add, zeros(6, dtype=c64), zeros(6, dtype=c64)) == 6 * 2
    assert flops(torch.abs, zeros(6, dtype=c64)) == 6 * 4  # two squares, a sum, a root


def test_sparse_counts_what_is_stored() -> None:
    dense = torch.eye(4, 6)  # 4 stored elements meet 3 columns each
    for layout in ("to_sparse", "to_sparse_csr"):
        found = really(lambda a, b, how=layout: torch.sparse.mm(getattr(a, how)(), b), dense, zeros(6, 3))
        assert found.macs == 4 * 3
    assert really(lambda a, b: a.to_sparse() @ b, dense, zeros(6)).macs == 4


def test_small_integers_and_groups() -> None:
    i8 = torch.int8
    assert macs(torch._int_mm, zeros(32, 16, dtype=i8), zeros(16, 8, dtype=i8)) == 32 * 16 * 8
    half = torch.bfloat16
    packed = (zeros(4, 32, dtype=half), zeros(8, 32, dtype=i8), zeros(8, dtype=half))
    found = both(torch.ops.aten._weight_int8pack_mm, *packed)
    assert (found.macs, found.flops - 2 * found.macs) == (4 * 32 * 8, 4 * 8)  # one rescaling per result


@pytest.mark.skipif(not hasattr(torch, "_grouped_mm"), reason="newer torch")
def test_grouped() -> None:
    half = torch.bfloat16
    ends = torch.tensor([4, 8, 12, 16], dtype=torch.int32)
    # 16 rows in 4 groups, each row meets one of the 4 matrices
    rows = both(
        lambda a, b, o: torch._grouped_mm(a, b, offs=o), zeros(16, 32, dtype=half), zeros(4, 32, 16, dtype=half), ends
    )
    assert only(rows, "aten._grouped_mm").macs == 16 * 32 * 16
    batch = both(lambda a, b: torch._grouped_mm(a, b), zeros(4, 16, 32, dtype=half), zeros(4, 32, 16, dtype=half))
    assert batch.macs == 4 * 16 * 32 * 16
