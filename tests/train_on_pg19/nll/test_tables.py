"""Tables by tokens of training, against plain sums over the last doubling."""

from __future__ import annotations

import numpy as np
import pytest

from train_on_pg19.nll import tables


def test_two_models_after_as_many_tokens():
    random, documents = np.random.default_rng(0), np.array([1, 2, 3])
    text = tables.Text(16, np.array(["x", "y", "z"]), documents)

    def ends(name: str, *counts: int) -> dict[int, tables.Evaluated]:
        draws = random.random((len(counts), 2, 3, 16))
        return {n: tables.Evaluated(name, 0, nll, {4: last}) for n, (nll, last) in zip(counts, draws, strict=True)}

    a, b = ends("a", 10, 30, 70), ends("b", 30, 70)
    units = documents.sum() * 8  # tokens in positions 9 to 16
    late = {(one.name, n): one.nll[:, 8:].sum() / units for of in (a, b) for n, one in of.items()}
    gains = {
        (one.name, n): one.with_last[4][:, 8:].sum() / units - late[one.name, n]
        for of in (a, b)
        for n, one in of.items()
    }
    table = tables.token_gaps([a], [b], 4, text)
    assert table[["tokens", "last"]].to_numpy().tolist() == [[n, last] for n in (30, 70) for last in (2, 4, 8, 16)]
    assert table["gain_gap_nats"].notna().tolist() == 2 * [False, False, False, True]
    found = table[table["last"] == 16]
    assert found["gap_nats"].tolist() == pytest.approx([late["a", n] - late["b", n] for n in (30, 70)], abs=1e-6)
    expected = [gains["a", n] - gains["b", n] for n in (30, 70)]
    assert found["gain_gap_nats"].tolist() == pytest.approx(expected, abs=1e-6)
    of_a = tables.tokens(a, 4, text)
    assert of_a["late_gain_nats"].tolist() == pytest.approx([gains["a", n] for n in (10, 30, 70)], abs=1e-6)
    assert of_a["fell_nats"].iloc[2] == pytest.approx((a[30].nll.sum() - a[70].nll.sum()) / 6 / 16, abs=1e-6)
    assert not len(tables.token_gaps([a], [ends("b", 20)], 4, text))
    assert "gain_gap_nats" not in tables.token_gaps([a], [b], None, text)
