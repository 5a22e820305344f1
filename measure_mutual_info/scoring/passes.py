"""What is scored: the grid of (ℓ, L), who is whose x_donor, and how per-token log-probabilities become the terms.

A document is cut at ℓ: X is its first ℓ tokens, Y the tokens ℓ+1 … L. Three kinds of passes give every term:

    own        BOS w_1 … w_Lmax                  log q(w_i | w_<i), whose sums give log q(Y|X) for all (ℓ, L), and
                                                 log q(w_1 … w_{L−ℓ}|BOS), the first tokens, as many as Y has
    marginal   BOS w_{ℓ+1} … w_end               log q(Y|BOS), one branch an ℓ
    other      BOS x'_1 … x'_ℓ w_{ℓ+1} … w_end   log q(Y|X'), one branch an ℓ, X' from the x_donor

where `end` is the largest L that goes with ℓ. The same Y stands in all three.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

# The terms of scores.csv. The last one belongs to the y_recipients of a group, the others to its documents.
TERM_OF_RECIPIENT = "logq_y_given_other_x"
TERMS = ("logq_y_given_x", "logq_y", "logq_y_first2", "logq_start", TERM_OF_RECIPIENT)


class Branch(NamedTuple):
    """Split point ℓ and the last token of the longest Y that is scored behind it, both in tokens."""

    ell: int
    end: int


class TokenLogprobs(NamedTuple):
    """Log-probabilities in nats of one group of documents, float64.

    own: (documents, L_max). marginal, other: for each branch, (documents, end − ℓ).
    marginal belongs to the documents that gave `own`, other to their y_recipients.
    """

    own: np.ndarray
    marginal: list[np.ndarray]
    other: list[np.ndarray]


class Backend(Protocol):
    """A language model that can score.

    It may have an attribute `tick`, a function that it calls during each pass with the tokens that went through
    since the last call: of a layer its part of the pass.
    """

    def token_logprobs(
        self, documents: np.ndarray, y_recipients: np.ndarray, branches: Sequence[Branch]
    ) -> TokenLogprobs:
        """Score a group. Both (group, L_max) token ids; the X of documents[i] goes to the Y of y_recipients[i]."""


def grid(L_max: int, ell_max: int | None = None, ratios: Sequence[int] = (2, 3, 4)) -> list[tuple[int, int]]:
    """The paper's (ℓ, L) in tokens: ℓ = 2, 4, 8, …, ell_max with L = r·ℓ for each ratio r, as far as L ≤ L_max.

    ell_max: None for no bound but L_max.

    >>> grid(16, ratios=(2, 4))
    [(2, 4), (2, 8), (4, 8), (4, 16), (8, 16)]
    """
    most = L_max if ell_max is None else ell_max
    ells = [2**k for k in range(1, most.bit_length()) if 2**k <= most]
    return [(ell, ratio * ell) for ell in ells for ratio in sorted(ratios) if ratio * ell <= L_max]


def branches(points: Sequence[tuple[int, int]]) -> list[Branch]:
    """One branch an ℓ, long enough for every L of `points` that goes with it.

    >>> branches([(2, 4), (2, 8), (4, 8)])
    [Branch(ell=2, end=8), Branch(ell=4, end=8)]
    """
    return [Branch(ell, max(L for other, L in points if other == ell)) for ell in sorted({ell for ell, _ in points})]


def tokens_a_document(points: Sequence[tuple[int, int]], donors: int = 1) -> int:
    """Tokens that go through the model for one document when branches reuse the key-values of what they share.

    donors: how many X' each Y is scored behind.
    """
    return max(L for _, L in points) + sum((1 + donors) * (branch.end - branch.ell) for branch in branches(points))


def x_donors(books: Sequence[str], seed: int) -> np.ndarray:
    """Whose X each document gets: a seeded random permutation without fixed points, of another book where possible.

    Returns indices, shape (documents,). A book with more than half of the documents cannot avoid itself everywhere;
    then the number of pairs within it is the smallest possible. Raises ValueError for fewer than two documents.
    """
    _, book = np.unique(np.asarray(books), return_inverse=True)
    count = len(book)
    if count < 2:
        raise ValueError("an X donor needs at least two documents")
    rng = np.random.default_rng(seed)
    x_donor = rng.permutation(count)
    # Swap the x_donors of two documents wherever that mends one pair and spoils none. While a pair of book A can still
    # be mended there is a document outside A whose x_donor is outside A too, so this ends at the smallest number.
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
    """The group as self-contained prompts, each with the number of its first tokens that are not scored.

    Order: own of every document, then for each branch the marginals of every document, then the others of every
    y_recipient. A prompt is a BOS and nothing that is not needed: X is trimmed to ℓ tokens, Y to its longest L.
    """

    start = np.full((len(documents), 1), bos)
    kinds = [([start, documents], 1)]
    for ell, end in split:
        kinds.append(([start, documents[:, ell:end]], 1))
        kinds.append(([start, documents[:, :ell], y_recipients[:, ell:end]], 1 + ell))
    return [(prompt, unscored) for parts, unscored in kinds for prompt in np.concatenate(parts, axis=1)]


def gather_plain(logprobs: Sequence[np.ndarray], size: int) -> TokenLogprobs:
    """Undo the order of `plain_prompts`: logprobs[i] belong to prompt i; `size` documents in the group."""
    blocks = [np.array(logprobs[start : start + size], dtype=np.float64) for start in range(0, len(logprobs), size)]
    return TokenLogprobs(own=blocks[0], marginal=blocks[1::2], other=blocks[2::2])


def terms(scored: TokenLogprobs, points: Sequence[tuple[int, int]]) -> dict[str, np.ndarray]:
    """TERMS from token log-probabilities; each (documents, points), in nats.

    logq_y_first2 is the first two tokens of Y given BOS, logq_start the first L − ℓ tokens of the document given BOS.
    Sums run in float64; but for logq_start, over the tokens of Y alone.
    """
    number = {branch.ell: index for index, branch in enumerate(branches(points))}
    columns: dict[str, list[np.ndarray]] = {name: [] for name in TERMS}
    for ell, L in points:
        marginal, other = scored.marginal[number[ell]], scored.other[number[ell]]
        summed = scored.own[:, ell:L], marginal[:, : L - ell], marginal[:, :2], scored.own[:, : L - ell]
        for name, logprobs in zip(TERMS, (*summed, other[:, : L - ell]), strict=True):
            columns[name].append(logprobs.sum(axis=1))
    return {name: np.stack(values, axis=1) for name, values in columns.items()}
