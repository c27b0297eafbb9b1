"""What dense linear algebra costs: leading terms of the classical algorithms, in FLOPs.

Source: Golub and Van Loan, Matrix Computations, 4th edition, sections 3.1, 4.2, 5.2, 7.5, 8.3 and 8.6. Iterative
algorithms stop when the data allow it; the textbook's figure for the typical case stands for them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from modelprobe.tracing.formulas.registry import Cost, formula


def _sizes(a: Tensor) -> tuple[int, int, int]:
    """How many matrices, their longer and their shorter side."""
    tall, wide = a.shape[-2:]
    count = a.numel() // (tall * wide) if tall * wide else 0
    return count, max(tall, wide), min(tall, wide)


@formula("aten::linalg_cholesky_ex", kind="algebra")
def cholesky(a: Tensor, *_: Any, out: Any, **__: Any) -> Cost:
    """n^3 / 3."""
    count, n, _n = _sizes(a)
    return Cost(0, count * n**3 // 3)


@formula(
    "aten::linalg_lu_factor_ex",
    "aten::linalg_lu",
    "aten::linalg_ldl_factor_ex",
    "aten::_linalg_det",
    "aten::_linalg_slogdet",
    kind="algebra",
)
def lu(a: Tensor, *_: Any, out: Any, **__: Any) -> Cost:
    """m n^2 - n^3 / 3, which is 2 n^3 / 3 for a square matrix; a determinant is read off the diagonal."""
    count, m, n = _sizes(a)
    return Cost(0, count * (3 * m * n**2 - n**3) // 3)


@formula("aten::linalg_inv_ex", kind="algebra")
def inverse(a: Tensor, *_: Any, out: Any, **__: Any) -> Cost:
    """2 n^3: an LU factorisation and n solutions."""
    count, n, _n = _sizes(a)
    return Cost(0, 2 * count * n**3)


@formula("aten::_linalg_solve_ex", kind="algebra")
def solve(a: Tensor, b: Tensor, *_: Any, out: Any, **__: Any) -> Cost:
    """LU, 2 n^3 / 3, and 2 n^2 per right-hand side."""
    count, n, _n = _sizes(a)
    return Cost(0, 2 * count * n**3 // 3 + 2 * n * _first_result(out).numel())


@formula("aten::linalg_lu_solve", "aten::linalg_ldl_solve", kind="algebra")
def factored_solve(lu: Tensor, pivots: Tensor, b: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """Two triangular solutions, 2 n^2 per right-hand side."""
    return Cost(0, 2 * lu.shape[-1] * out.numel())


@formula("aten::cholesky_solve", "aten::_cholesky_solve_helper", kind="algebra")
def cholesky_solve(b: Tensor, factor: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """Two triangular solutions, 2 n^2 per right-hand side."""
    return Cost(0, 2 * factor.shape[-1] * out.numel())


@formula("aten::linalg_solve_triangular", kind="algebra")
def triangular_solve(a: Tensor, b: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """n^2 per right-hand side."""
    return Cost(0, a.shape[-1] * out.numel())


@formula("aten::triangular_solve", kind="algebra")
def triangular_solve_older(b: Tensor, a: Tensor, *_: Any, out: Any, **__: Any) -> Cost:
    """n^2 per right-hand side."""
    return Cost(0, a.shape[-1] * _first_result(out).numel())


@formula("aten::cholesky_inverse", kind="algebra")
def cholesky_inverse(factor: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """2 n^3 / 3: the inverse of the triangle and its product with itself."""
    count, n, _n = _sizes(factor)
    return Cost(0, 2 * count * n**3 // 3)


@formula("aten::ormqr", kind="algebra")
def multiply_by_q(a: Tensor, tau: Tensor, other: Tensor, left: bool = True, *_: Any, out: Tensor, **__: Any) -> Cost:
    """k reflections of an m x n matrix from the left: 2 n k (2 m - k)."""
    m, n = other.shape[-2:] if left else (other.shape[-1], other.shape[-2])
    k, count = tau.shape[-1], other.numel() // max(1, m * n)
    return Cost(0, count * 2 * n * k * (2 * m - k))


@formula("aten::linalg_polar", kind="algebra")
def polar_factors(a: Tensor, *_: Any, out: Any, **__: Any) -> Cost:
    """A singular value decomposition and the products U V^H and V S V^H, 2 m n^2 and 2 n^3."""
    count, m, n = _sizes(a)
    return Cost(0, count * (16 * m * n**2 + 10 * n**3))


@formula("aten::linalg_matrix_sqrth", kind="algebra")
def symmetric_root(a: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """A symmetric eigendecomposition, 9 n^3, and the product of its factors, 2 n^3."""
    count, n, _n = _sizes(a)
    return Cost(0, 11 * count * n**3)


@formula("aten::linalg_qr", "aten::geqrf", kind="algebra")
def qr(a: Tensor, mode: str = "reduced", *, out: Any) -> Cost:
    """Householder: 2 m n^2 - 2 n^3 / 3 for R and as much again to form Q."""
    count, m, n = _sizes(a)
    factor = (6 * m * n**2 - 2 * n**3) // 3
    return Cost(0, count * factor * (1 if mode == "r" or len(out[0].shape) < 2 else 2))


@formula("aten::linalg_householder_product", kind="algebra")
def householder(a: Tensor, tau: Tensor, *, out: Tensor) -> Cost:
    """2 m n^2 - 2 n^3 / 3 to form Q."""
    count, m, n = _sizes(a)
    return Cost(0, count * (6 * m * n**2 - 2 * n**3) // 3)


@formula("aten::_linalg_svd", kind="algebra")
def svd(a: Tensor, full_matrices: bool = False, compute_uv: bool = True, *, driver: Any = None, out: Any) -> Cost:
    """Golub-Reinsch: 4 m n^2 - 4 n^3 / 3 for the values alone, 14 m n^2 + 8 n^3 with thin U and V."""
    count, m, n = _sizes(a)
    return Cost(0, count * (14 * m * n**2 + 8 * n**3 if compute_uv else (12 * m * n**2 - 4 * n**3) // 3))


@formula("aten::linalg_pinv", kind="algebra")
def pseudo_inverse(a: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """A singular value decomposition and the product of its factors, 2 m n^2."""
    count, m, n = _sizes(a)
    return Cost(0, count * (16 * m * n**2 + 8 * n**3))


@formula("aten::linalg_lstsq", kind="algebra")
def least_squares(a: Tensor, b: Tensor, *_: Any, out: Any, **__: Any) -> Cost:
    """QR, 2 m n^2 - 2 n^3 / 3, and per right-hand side 4 m n for Q^T b and n^2 for the triangle."""
    count, m, n = _sizes(a)
    columns = b.shape[-1] if b.dim() == a.dim() else 1
    return Cost(0, count * ((6 * m * n**2 - 2 * n**3) // 3 + columns * (4 * m * n + n**2)))


@formula("aten::_linalg_eigh", kind="algebra")
def symmetric_eigen(a: Tensor, uplo: str = "L", compute_v: bool = True, *, out: Any) -> Cost:
    """Symmetric QR: 4 n^3 / 3 for the values alone, 9 n^3 with the vectors."""
    count, n, _n = _sizes(a)
    return Cost(0, count * (9 * n**3 if compute_v else 4 * n**3 // 3))


@formula("aten::linalg_eig", kind="algebra")
def eigen(a: Tensor, *, out: Any) -> Cost:
    """Francis QR: 25 n^3 with the vectors."""
    count, n, _n = _sizes(a)
    return Cost(0, count * 25 * n**3)


@formula("aten::_linalg_eigvals", "aten::linalg_eigvals", kind="algebra")
def eigenvalues(a: Tensor, *, out: Any) -> Cost:
    """Francis QR: 10 n^3 for the values alone."""
    count, n, _n = _sizes(a)
    return Cost(0, count * 10 * n**3)


@formula("aten::linalg_matrix_exp", kind="algebra")
def matrix_exponential(a: Tensor, *, out: Tensor) -> Cost:
    """The Taylor polynomial of degree 18, 5 products (Bader, Blanes and Casas 2019), before any squaring."""
    count, n, _n = _sizes(a)
    return Cost(5 * count * n**3)


def _first_result(out: Any) -> Any:
    return out[0] if isinstance(out, (list, tuple)) else out
