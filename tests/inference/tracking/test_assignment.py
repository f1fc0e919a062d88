"""Assignment against all possibilities, tried one by one."""

from __future__ import annotations

import itertools

import numpy as np

from pipeline.inference.tracking.assignment import assign


def best_total(similarity: np.ndarray, rows: list[int], columns: list[int], least: float) -> float:
    """The largest sum of allowed pairs, by trying every assignment."""
    if len(rows) > len(columns):
        return best_total(similarity.T, columns, rows, least)
    allowed = np.where(similarity >= least, similarity, 0.0)
    return max(
        sum(allowed[row, column] for row, column in zip(rows, chosen, strict=True))
        for chosen in itertools.permutations(columns, len(rows))
    )


def test_total_similarity_is_the_largest_possible():
    random = np.random.default_rng(0)
    for _ in range(300):
        m, n = random.integers(1, 6, 2)
        similarity = random.random((m, n)) * (random.random((m, n)) < 0.7)
        rows = random.permutation(m)[: random.integers(0, m + 1)]
        columns = random.permutation(n)[: random.integers(0, n + 1)]
        least = float(random.random() / 2)
        match = assign(similarity, rows, columns, least)
        pairs = [(row, column) for row, column in enumerate(match) if column >= 0]
        assert {row for row, _ in pairs} <= set(rows.tolist())
        assert {column for _, column in pairs} <= set(columns.tolist())
        assert len({column for _, column in pairs}) == len(pairs)
        assert all(similarity[pair] >= least for pair in pairs)
        total = sum(similarity[pair] for pair in pairs)
        wanted = best_total(similarity, rows.tolist(), columns.tolist(), least)
        np.testing.assert_allclose(total, wanted, atol=1e-12)
