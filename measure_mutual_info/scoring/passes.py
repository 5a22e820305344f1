"""What is scored: the grid of (ℓ, L), the x_donor of each document, and the terms from per-token log-probabilities.

A document is cut at ℓ: X is its first ℓ tokens, Y the tokens ℓ+1 … L. Three kinds of passes give all the terms:

    own        BOS w_1 … w_Lmax                  log q(w_i | w_<i), whose sums give log q(Y|X) for all (ℓ, L), and
                                                 log q(w_1 … w_{L−ℓ}|BOS), the first L − ℓ tokens, as many as in Y
    marginal   BOS w_{ℓ+1} … w_end               log q(Y|BOS), one branch per ℓ
    other      BOS x'_1 … x'_ℓ w_{ℓ+1} … w_end   log q(Y|X'), one branch per ℓ, X' from the x_donor

where `end` is the largest L for that ℓ. Y is the same in all three.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

# The terms of scores.csv. The last one belongs to the y_recipients of a group, the others to its documents.
TERM_OF_RECIPIENT = "logq_y_given_other_x"
TERMS = ("logq_y_given_x", "logq_y", "logq_y_first2", "logq_start", TERM_OF_RECIPIENT)


class Branch(NamedTuple):
    """A split point ℓ and the end of the longest Y scored after it, both in tokens."""

    ell: int
    end: int


class TokenLogprobs(NamedTuple):
    """Log-probabilities in nats of one group of documents, float64.

    own: (documents, L_max). marginal, other: for each branch, (documents, end − ℓ).
    own and marginal belong to the documents, other to their y_recipients.
    """

    own: np.ndarray
    marginal: list[np.ndarray]
    other: list[np.ndarray]


class Backend(Protocol):
    """A language model that can score documents.

    It may have an attribute `tick`: a function called during each pass with the number of tokens processed since the
    last call (a layer counts as its share of the pass).
    """

    def token_logprobs(
        self, documents: np.ndarray, y_recipients: np.ndarray, branches: Sequence[Branch]
    ) -> TokenLogprobs:
        """Score a group. Both: (group, L_max) token ids; the X of documents[i] precedes the Y of y_recipients[i]."""


def grid(L_max: int, ell_max: int | None = None, ratios: Sequence[int] = (2, 3, 4)) -> list[tuple[int, int]]:
    """The paper's (ℓ, L) in tokens: ℓ = 2, 4, 8, …, ell_max and L = r·ℓ for each ratio r, as long as L ≤ L_max.

    ell_max: if None, ℓ is limited by L_max only.

    >>> grid(16, ratios=(2, 4))
    [(2, 4), (2, 8), (4, 8), (4, 16), (8, 16)]
    """
    most = L_max if ell_max is None else ell_max
    ells = [2**k for k in range(1, most.bit_length()) if 2**k <= most]
    return [(ell, ratio * ell) for ell in ells for ratio in sorted(ratios) if ratio * ell <= L_max]


def branches(points: Sequence[tuple[int, int]]) -> list[Branch]:
    """One branch per ℓ, long enough for the largest L of that ℓ in `points`.

    >>> branches([(2, 4), (2, 8), (4, 8)])
    [Branch(ell=2, end=8), Branch(ell=4, end=8)]
    """
    return [Branch(ell, max(L for other, L in points if other == ell)) for ell in sorted({ell for ell, _ in points})]


def tokens_a_document(points: Sequence[tuple[int, int]], donors: int = 1) -> int:
    """Tokens that the model processes for one document when branches reuse the key-values of shared tokens.

    donors: the number of X' that each Y is scored after.
    """
    return max(L for _, L in points) + sum((1 + donors) * (branch.end - branch.ell) for branch in branches(points))


def x_donors(books: Sequence[str], seed: int) -> np.ndarray:
    """The x_donor of each document: a seeded random permutation without fixed points, from another book where possible.

    Returns indices, shape (documents,). If a book has more than half of the documents, some pairs must lie within it;
    their number is then the smallest possible. ValueError: fewer than two documents.
    """
    _, book = np.unique(np.asarray(books), return_inverse=True)
    count = len(book)
    if count < 2:
        raise ValueError("an X donor needs at least two documents")
    rng = np.random.default_rng(seed)
    x_donor = rng.permutation(count)
    # Swap the x_donors of two documents wherever this separates a pair within a book and creates none. As long as a
    # pair within book A can be separated, a document outside A has an x_donor outside A, so the fewest pairs remain.
    for i in rng.permutation(count):
        if book[x_donor[i]] == book[i]:
            able = np.flatnonzero((book[x_donor] != book[i]) & (book != book[x_donor[i]]))
            if len(able):
                k = rng.choice(able)
                x_donor[i], x_donor[k] = x_donor[k], x_donor[i]
    for i in np.flatnonzero(x_donor == np.arange(count)):
        if x_donor[i] == i:
            k = rng.choice(np.setdiff1d(np.flatnonzero(book == book[i]), [i]))
            x_donor[i], x_donor[k] = x_donor[k], x_donor[i]
    return x_donor


def plain_prompts(
    documents: np.ndarray, y_recipients: np.ndarray, split: Sequence[Branch], bos: int
) -> list[tuple[np.ndarray, int]]:
    """The group as self-contained prompts, each with the number of leading tokens that are not scored.

    Order: the `own` prompts of all documents, then for each branch the `marginal` prompts of all documents and the
    `other` prompts of all y_recipients. A prompt is BOS and only the tokens needed: X is cut to ℓ tokens, Y at `end`.
    """

    start = np.full((len(documents), 1), bos)
    kinds = [([start, documents], 1)]
    for ell, end in split:
        kinds.append(([start, documents[:, ell:end]], 1))
        kinds.append(([start, documents[:, :ell], y_recipients[:, ell:end]], 1 + ell))
    return [(prompt, unscored) for parts, unscored in kinds for prompt in np.concatenate(parts, axis=1)]


def gather_plain(logprobs: Sequence[np.ndarray], size: int) -> TokenLogprobs:
    """Undo the order of `plain_prompts`. logprobs[i] belongs to prompt i; size: number of documents in the group."""
    blocks = [np.array(logprobs[start : start + size], dtype=np.float64) for start in range(0, len(logprobs), size)]
    return TokenLogprobs(own=blocks[0], marginal=blocks[1::2], other=blocks[2::2])


def terms(scored: TokenLogprobs, points: Sequence[tuple[int, int]]) -> dict[str, np.ndarray]:
    """TERMS from token log-probabilities; each is (documents, points), in nats.

    logq_y_first2: the first two tokens of Y given BOS. logq_start: the first L − ℓ tokens of the document given BOS.
    Sums are in float64, and over tokens of Y only, except for logq_start.
    """
    number = {branch.ell: index for index, branch in enumerate(branches(points))}
    columns: dict[str, list[np.ndarray]] = {name: [] for name in TERMS}
    for ell, L in points:
        marginal, other = scored.marginal[number[ell]], scored.other[number[ell]]
        summed = scored.own[:, ell:L], marginal[:, : L - ell], marginal[:, :2], scored.own[:, : L - ell]
        for name, logprobs in zip(TERMS, (*summed, other[:, : L - ell]), strict=True):
            columns[name].append(logprobs.sum(axis=1))
    return {name: np.stack(values, axis=1) for name, values in columns.items()}
