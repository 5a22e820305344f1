"""Gaussian sequences with known information: draws and exact conditionals in O(L) (App. C of the paper).

A family is built in layers. Layer 1 is Y = M X, where X holds n independent standard normals. Layer λ starts from a
matrix X of L/n rows and n columns: k columns are independent copies of layer λ−1, the others fresh standard normals.
Each row becomes Z_i = M X_i, the rows are joined end to end, and the last value of each row is mixed with the first of
the next (Eq. C.23). The information between the halves grows as k^layers = L^β with β = log_n k. The paper's sub-volume
family has n = 4, k = 3 (β = 0.79), its logarithmic family n = 4, k = 1 (β = 0: a constant for each layer).

    conditionals = prepare(named("subvolume", layers=6))         # once for a family: 4^6 = 4,096 positions
    z, mean = draw(conditionals, batch=4 * 64, generator=rng)    # (L, batch) each: samples, and E[z_t | z_<t]
    conditionals.std                                           # (L,) std of z_t given z_<t, whatever z is

docs/gaussian_families.md explains why O(L) is enough and exact. Tensors have the batch last, (positions, batch), so
that the small matrices of a row multiply long contiguous blocks of memory. `Conditionals`, which do not depend on the
data, are computed in float64 and then converted to the dtype of use.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import torch

from common.cli import UserError

NAMED = {"subvolume": 3, "logarithmic": 1}  # k of n = 4 columns (App. C)
PAPER_N = 4
# Eq. C.23: the new correlation of a mixed pair is 2/5 of that of each neighbouring pair plus 1/5 of its own.
WEIGHT_BESIDE, WEIGHT_OWN = 0.4, 0.2


@dataclass(frozen=True)
class Family:
    """A family of `layers` layers with branching n; k of the n columns are copies of the layer below.

    coupling: correlation of two values in a row; None for −1/n, which is the paper's −1/4 at n = 4. UserError: layers
    < 1, n < 3, k outside 1 … n, coupling outside (−1/(n−1), 1).
    """

    layers: int
    k: int
    n: int = PAPER_N
    coupling: float | None = None

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise UserError(f"{self.layers} layers: give at least 1")
        if self.n < 3:
            # With two columns the mixing would change every value, and β could only be 0 or 1.
            raise UserError(f"branching n = {self.n}: give at least 3")
        if not 1 <= self.k <= self.n:
            raise UserError(f"k = {self.k} copied columns of n = {self.n}: give 1 to n")
        if self.coupling is None:
            object.__setattr__(self, "coupling", -1 / self.n)
        if not -1 / (self.n - 1) < self.coupling < 1:
            raise UserError(f"coupling {self.coupling:g}: rows of unit norm have it above −1/(n−1) and below 1")

    @property
    def L(self) -> int:  # noqa: N802 - the paper's symbol
        """Sequence length in tokens."""
        return self.n**self.layers

    @property
    def copied(self) -> tuple[int, ...]:
        """Copied columns of each layer, bottom first: 0, as no layer lies below, then k."""
        return 0, *(self.k,) * (self.layers - 1)


def named(name: str, layers: int, k: int | None = None, n: int = PAPER_N) -> Family:
    """The paper's "subvolume" or "logarithmic" family, or one of another name with its own k. UserError: another name
    without k, and as Family."""
    if k is None and name not in NAMED:
        raise UserError(f"no family {name!r}: choose {' or '.join(NAMED)}, or give k")
    return Family(layers, NAMED[name] if k is None else k, n)


def layers_of_length(L: int, n: int = PAPER_N) -> int:
    """Number of layers with branching n that give L positions. UserError: L is not a power of n, n < 3."""
    if n < 3:
        raise UserError(f"branching n = {n}: give at least 3")
    layers = round(math.log(L, n)) if L >= n else 0
    if layers < 1 or n**layers != L:
        raise UserError(f"L = {L} is not a power of n = {n}: give {n ** max(1, layers)}, the nearest")
    return layers


def row_matrix(n: int, coupling: float) -> torch.Tensor:
    """M, (n, n) float64: rows of unit norm, any two with inner product `coupling`.

    An orthogonal matrix whose last column is constant, with rescaled columns: M M^T has eigenvalue 1 + (n−1)·coupling
    for the constant vector and 1 − coupling orthogonal to it. n = 4 gives the paper's matrix (γ = √5/4, ρ = 1/4 at
    coupling −1/4). For other n the columns are cosines. Like the paper's columns, they change at most their sign when
    the order of the rows is reversed, so a family has the same law backwards.
    """
    if n == 4:
        across = torch.tensor([[1, 1, 1], [-1, 1, -1], [-1, -1, 1], [1, -1, -1]], dtype=torch.float64) / 2
    else:
        row, column = torch.arange(n, dtype=torch.float64) + 0.5, torch.arange(1, n, dtype=torch.float64)
        across = torch.cos(math.pi / n * row[:, None] * column) * math.sqrt(2 / n)
    constant = torch.full((n, 1), math.sqrt((1 + (n - 1) * coupling) / n), dtype=torch.float64)
    return torch.cat([across * math.sqrt(1 - coupling), constant], dim=1)


@dataclass(frozen=True)
class Mixing:
    """The weights of the mixing across rows in one layer, and the correlations after it; float64.

    own, other: (R, 1) each value of a mixed pair becomes own·itself + other·its partner; 1 and 0 for the last row.
    adjacent: (L−1,) correlations of neighbours in the layer's output.
    """

    own: torch.Tensor
    other: torch.Tensor
    adjacent: torch.Tensor


def mixing(M: torch.Tensor, k: int, adjacent_below: torch.Tensor) -> Mixing:
    """The mixing of a layer with rows M X_i, k columns copied. adjacent_below: (R−1,) correlations of neighbours below.

    T = C_new^{1/2} C_old^{−1/2} changes the correlation of the pair (Z_{i,n}, Z_{i+1,1}) from r to 2/5 (c + c) + 1/5 r,
    where c is the coupling within a row (Eq. C.23). Both matrices have the eigenvectors (1, 1) and (1, −1).
    """
    n, rows = len(M), len(adjacent_below) + 1
    coupling = (M[0] @ M[1]).item()

    def across(left: int, right: int) -> torch.Tensor:
        """corr(Z_{i,left}, Z_{i+1,right}) before the mixing: only copied columns correlate rows."""
        return (M[left, :k] @ M[right, :k]) * adjacent_below

    old = across(n - 1, 0)
    new = 2 * WEIGHT_BESIDE * coupling + WEIGHT_OWN * old
    along, against = torch.sqrt((1 + new) / (1 + old)), torch.sqrt((1 - new) / (1 - old))
    own, other = (along + against) / 2, (along - against) / 2
    adjacent = torch.full((rows, n), coupling, dtype=torch.float64)
    adjacent[1:, 0] = own * coupling + other * across(n - 1, 1)
    adjacent[:-1, n - 2] = own * coupling + other * across(n - 2, 0)
    adjacent[:-1, n - 1] = new
    end = torch.tensor([0.0], dtype=torch.float64)
    own, other = torch.cat([own, end + 1])[:, None], torch.cat([other, end])[:, None]
    return Mixing(own, other, adjacent.flatten()[:-1])


def mix_rows(Z: torch.Tensor, own: torch.Tensor, other: torch.Tensor) -> None:
    """Mix the last value of each row with the first of the next, in place. Z: (R, n, width); own, other: (R, 1)."""
    last, following = Z[:-1, -1].clone(), Z[1:, 0].clone()
    Z[:-1, -1] = own[:-1] * last + other[:-1] * following
    Z[1:, 0] = other[:-1] * last + own[:-1] * following


def mixings(of: Family) -> Iterator[tuple[torch.Tensor, Mixing]]:
    """M and the mixing of every layer, bottom first, float64."""
    adjacent = torch.empty(0, dtype=torch.float64)
    M = row_matrix(of.n, of.coupling)
    for k in of.copied:
        mix = mixing(M, k, adjacent)
        yield M, mix
        adjacent = mix.adjacent


def bottom_up(of: Family) -> Iterator[tuple[torch.Tensor, Mixing, torch.Tensor]]:
    """M, mixing and Cholesky factors (R, n+2, n+2) of every layer, bottom first, float64.

    Row i and the beginning of row i+1 are processed as one block, in the order
        u = (Z_{i,1}, …, Z_{i,n−1}, Z'_{i,n}, Z'_{i+1,1}, Z_{i+1,2}),
    where a prime marks mixed values. Once Z'_{i+1,1} is known, the mixing can be undone, which gives row i unmixed, and
    the next block begins. Factor C_i is the Cholesky factor of the covariance of u given all rows before i. From the
    layer below it needs the covariance of a copy's next two values given all values before (docs/gaussian_families.md).
    """
    below = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)  # var, cov, var of the next two values: fresh normals
    for k, (M, mix) in zip(of.copied, mixings(of), strict=True):
        factors = torch.linalg.cholesky(_block_covariance(M, k, mix, below))
        yield M, mix, factors
        below = _next_two(factors)


def _values_ahead(M: torch.Tensor, mix: Mixing) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrices A and B in u = A_i X_i + B_i X_{i+1}, (R, n+2, n) each."""
    n, rows = len(M), len(mix.own)
    one, two = torch.zeros(2, rows, n + 2, n, dtype=torch.float64)
    one[:, : n - 1], two[:, n + 1] = M[:-1], M[1]
    one[:, n - 1], two[:, n - 1] = mix.own * M[-1], mix.other * M[0]
    one[:, n], two[:, n] = mix.other * M[-1], mix.own * M[0]
    return one, two


def _block_covariance(M: torch.Tensor, k: int, mix: Mixing, below: torch.Tensor) -> torch.Tensor:
    """Covariance of u given all rows before, (R, n+2, n+2). below: (R, 3), `_next_two` of the layer below."""
    one, two = _values_ahead(M, mix)
    var, cov, var_next = (below[:, i, None, None] for i in range(3))
    copied, following, fresh = one[:, :, :k], two[:, :, :k], torch.cat([one[:, :, k:], two[:, :, k:]], 2)
    covariance = fresh @ fresh.mT
    covariance += (var * copied + cov * following) @ copied.mT
    return covariance.add_((cov * copied + var_next * following) @ following.mT)


def _next_two(factors: torch.Tensor) -> torch.Tensor:
    """(L, 3): variance of z_t, covariance, variance of z_{t+1}, all given z_<t, from the (R, n+2, n+2) factors.

    The last position is followed by an independent value without mixing, so that no row is a special case.
    """
    this = factors.diagonal(dim1=1, dim2=2)
    beside = factors.diagonal(offset=-1, dim1=1, dim2=2)
    two = torch.stack([this[:, :-1] ** 2, this[:, :-1] * beside, beside**2 + this[:, 1:] ** 2], dim=2)
    # Steps 2 … n+1 of a block are the positions (i,2) … (i+1,1); step 1 belongs to the block before.
    return torch.cat([two[:1, 0], two[:, 1:].flatten(0, 1)])[:-1]


def conditional_std(of: Family) -> torch.Tensor:
    """(L,) float64: standard deviation of z_t given z_1 … z_{t−1}. The entropy of z_t is ½ ln 2πe + ln std, in nats.

    UserError: more positions than fit in memory.
    """
    check_memory(memory_needed(of), f"the conditionals of {of.L:,} positions")
    for _, _, factors in bottom_up(of):  # noqa: B007 - only the top layer's factors are used
        pass
    return _next_two(factors)[:, 0].sqrt()


@dataclass(frozen=True)
class LayerLaws:
    """One layer's part of the recursion, in the dtype and on the device of use. R rows of n columns, k of them copies.

    by_data: (R, n·ahead, n) and by_means: (R, n·ahead, 2k): predictions of a block = by_data · (Z_{i,1}, z_{i,2} …
    z_{i,n}) + by_means · (the copies' means in rows i and i+1). ahead is 2 (for z_t and z_{t+1}), and 1 at the top.
    """

    M: torch.Tensor
    own: torch.Tensor
    other: torch.Tensor
    by_data: torch.Tensor
    by_means: torch.Tensor
    k: int


@dataclass(frozen=True)
class Conditionals:
    """Everything about a family's conditionals that does not depend on the data; made by `prepare`."""

    of: Family
    layers: tuple[LayerLaws, ...]
    std: torch.Tensor  # (L,) standard deviation of z_t given z_<t


def prepare(of: Family, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Conditionals:
    """A family's conditionals, once for all draws, computed in float64 on the CPU. UserError: too little memory."""
    check_memory(2 * memory_needed(of), f"the conditionals of {of.L:,} positions")
    layers = []
    for k, (M, mix, factors) in zip(of.copied, bottom_up(of), strict=True):
        ahead = 1 if len(layers) == of.layers - 1 else 2
        by_data, by_means = _regressions(M, k, mix, factors, ahead)
        tensors = (M, mix.own, mix.other, by_data, by_means)
        layers.append(LayerLaws(*(tensor.to(device, dtype) for tensor in tensors), k=k))
    return Conditionals(of, tuple(layers), _next_two(factors)[:, 0].sqrt().to(device, dtype))


def _regressions(
    M: torch.Tensor, k: int, mix: Mixing, factors: torch.Tensor, ahead: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """by_data and by_means of LayerLaws. With u = W m + C ε, E[u_j | u_<j] = (W m)_j + Σ_{s<j} C_js ε_s.

    ε = C⁻¹ (u − W m), so everything is linear in u and m.
    """
    n = len(M)
    W = torch.cat([side[:, :, :k] for side in _values_ahead(M, mix)], 2)
    seen = factors[:, :n, :n]
    whitening = torch.linalg.solve_triangular(seen, torch.eye(n, dtype=torch.float64).expand_as(seen), upper=False)
    by_data, by_means = [], []
    for further in range(ahead):  # predictions of step j + further from the steps before j = 2 … n+1
        earlier = torch.tril(factors[:, 1 : n + 1, :n] if further == 0 else factors[:, 2 : n + 2, :n])
        gain = earlier @ whitening
        by_data.append(gain)
        by_means.append(W[:, 1 + further : n + 1 + further] - gain @ W[:, :n])
    return torch.stack(by_data, 2).flatten(1, 2), torch.stack(by_means, 2).flatten(1, 2)


def draw(
    conditionals: Conditionals, batch: int, generator: torch.Generator | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw z and compute the means of its conditionals, (L, batch) each; the standard deviations are conditionals.std.

    The layers below z, which the means need, are known from the draw.
    """
    blocks, below = [], None
    of = conditionals.of
    for i, layer in enumerate(conditionals.layers):
        rows, n, k = len(layer.own), of.n, layer.k
        copies = of.k ** (of.layers - 1 - i)  # of this layer's output in one sequence
        fresh = torch.empty(rows, n - k, batch * copies, dtype=layer.M.dtype, device=layer.M.device)
        Z = torch.matmul(layer.M[:, k:], fresh.normal_(generator=generator))
        if below is not None:
            Z += torch.matmul(layer.M[:, :k], below.view(rows, k, -1))
        first = Z[:, 0].clone()
        mix_rows(Z, layer.own, layer.other)
        below = Z.view(rows * n, -1)
        blocks.append((Z, first))
    z = below.clone()
    for Z, first in blocks:
        Z[:, 0] = first
    return z, _predict(conditionals, [Z for Z, _ in blocks])


def _predict(conditionals: Conditionals, blocks: list[torch.Tensor]) -> torch.Tensor:
    """E[z_t | z_<t], (L, batch), from the data of every layer's blocks. `blocks` is emptied, to free memory."""
    means = None  # (positions below, 2, batch below): means of the next value and the one after it
    for layer in conditionals.layers:
        data = blocks.pop(0)
        rows, n, width = data.shape
        ahead = layer.by_data.shape[1] // n
        out = torch.empty(rows * n + 1, ahead, width, dtype=data.dtype, device=data.device)
        out[0] = 0  # nothing has been seen before the first position
        block = out[1:].view(rows, n * ahead, width)
        torch.bmm(layer.by_data, data, out=block)
        if means is not None:
            block.baddbmm_(layer.by_means, means.view(rows, 2 * layer.k, width))
        means = out[:-1]
    return means[:, 0]


def memory_needed(of: Family) -> int:
    """Bytes that `conditional_std` needs: six float64 tensors of the top layer. `prepare` needs up to twice as many."""
    return of.L // of.n * 6 * 8 * (of.n + 2) ** 2


def check_memory(needed: int, what: str) -> None:
    """UserError, before anything is allocated: `needed` bytes are more than the free memory."""
    free = psutil.virtual_memory().available
    if needed > free:
        raise UserError(f"{what} need {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free: take fewer layers")
