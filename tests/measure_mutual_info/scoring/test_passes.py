from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measure_mutual_info.scoring import passes


def test_docstring_examples():
    assert doctest.testmod(passes).failed == 0


def test_grid_is_the_papers():
    points = passes.grid(4096, 1024)
    assert {ell for ell, L in points if L == 2 * ell} == {2**k for k in range(1, 11)}
    assert {ell for ell, L in points if L == 3 * ell} == {2**k for k in range(1, 11)}
    assert max(passes.grid(8192)) == (4096, 8192), "no bound but the longest L"
    assert passes.grid(2048)[-1] == (1024, 2048)
    assert max(ell for ell, L in passes.grid(2048) if L == 4 * ell) == 512
    assert max(passes.grid(1000)) == (256, 768), "nothing beyond the longest L"


def test_tokens_against_the_papers_schedule():
    """Fewer than the paper: a joint pass, and for 10 splits a marginal one and one after another X, to token 2,048."""
    paper = 2048 + sum(2048 - 2**k + 2048 for k in range(1, 11))  # 40,962
    assert passes.tokens_a_document(passes.grid(2048, ratios=(2,))) / paper < 1 / 4
    assert passes.tokens_a_document(passes.grid(2048)) / paper < 1 / 3
    points = passes.grid(8, ratios=(2,))  # Y has 2 and 4 tokens
    assert [passes.tokens_a_document(points, donors) for donors in (0, 1, 5)] == [8 + 6, 8 + 12, 8 + 36]


@settings(max_examples=200, deadline=None)
@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6), seed=st.integers(0, 10))
def test_x_donors(sizes, seed):
    books = [f"book {i}" for i, size in enumerate(sizes) for _ in range(size)]
    count = len(books)
    if count < 2:
        with pytest.raises(ValueError, match="two documents"):
            passes.x_donors(books, seed)
        return
    x_donor = passes.x_donors(books, seed)
    assert sorted(x_donor) == list(range(count)), "every document lends its X once"
    assert (x_donor != np.arange(count)).all(), "nobody gets its own X"
    within = sum(books[i] == books[x_donor[i]] for i in range(count))
    assert within == max(0, 2 * max(sizes) - count), "as few pairs within a book as there can be"
    assert (passes.x_donors(books, seed) == x_donor).all(), "the same seed gives the same x_donors"
    assert count < 10 or (passes.x_donors(books, seed + 1) != x_donor).any()


def test_plain_prompts_hold_what_their_names_say():
    documents, y_recipients = np.arange(10, 26).reshape(2, 8), np.arange(50, 66).reshape(2, 8)
    prompts = passes.plain_prompts(documents, y_recipients, [passes.Branch(2, 6)], bos=1)
    assert [prompt.tolist() for prompt, _ in prompts] == [
        [1, 10, 11, 12, 13, 14, 15, 16, 17],
        [1, 18, 19, 20, 21, 22, 23, 24, 25],
        [1, 12, 13, 14, 15],
        [1, 20, 21, 22, 23],
        [1, 10, 11, 52, 53, 54, 55],
        [1, 18, 19, 60, 61, 62, 63],
    ]
    assert [unscored for _, unscored in prompts] == [1, 1, 1, 1, 3, 3]
    # A "model" whose log-probability of a token is minus its id: each term must be minus the sum of its token ids.
    scored = passes.gather_plain([-prompt[unscored:] for prompt, unscored in prompts], 2)
    found = passes.terms(scored, [(2, 4), (2, 6)])
    assert found["logq_y_given_x"].tolist() == [[-25, -54], [-41, -86]]
    assert found["logq_y"].tolist() == [[-25, -54], [-41, -86]]
    assert found["logq_y_first2"].tolist() == [[-25, -25], [-41, -41]]
    assert found["logq_start"].tolist() == [[-21, -46], [-37, -78]], "as many of the first tokens as Y has"
    assert found["logq_y_given_other_x"].tolist() == [[-105, -214], [-121, -246]]
