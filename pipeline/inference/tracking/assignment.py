"""The assignment problem: pairs of tracks and detections with the largest total similarity."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from pipeline.inference.kernels.kernel import kernel


@kernel
def assign(similarity, rows, columns, least):
    """Match some rows of a similarity matrix with some of its columns, each at most once.

    `rows` and `columns` are indices into `similarity` (m, n) float64 >= 0. Returns `match` (m,)
    int64, the column of each row or -1, such that the sum of the matched similarities is as large
    as possible; pairs below `least` are never matched.

    Shortest augmenting paths with dual variables (R. Jonker and A. Volgenant, "A shortest
    augmenting path algorithm for dense and sparse linear assignment problems", Computing 38, 1987).
    The smaller side is matched; an impossible pair costs as much as no match.
    """
    match = np.full(similarity.shape[0], -1, np.int64)
    is_swapped = len(rows) > len(columns)
    cost = _costs(similarity, rows, columns, least, is_swapped)
    owner = _solve(cost)
    for j in range(len(owner)):
        if owner[j] >= 0 and cost[owner[j], j] < 1.0:
            row = rows[j] if is_swapped else rows[owner[j]]
            match[row] = columns[owner[j]] if is_swapped else columns[j]
    return match


@kernel
def _costs(similarity, rows, columns, least, is_swapped):
    """Cost matrix with its smaller side first; 1 for a pair that is not allowed."""
    m, n = len(rows), len(columns)
    cost = np.ones((n, m) if is_swapped else (m, n))
    for i in range(m):
        for j in range(n):
            s = similarity[rows[i], columns[j]]
            if s >= least and s > 0:
                if is_swapped:
                    cost[j, i] = 1.0 - s
                else:
                    cost[i, j] = 1.0 - s
    return cost


@kernel
def _solve(cost):
    """Assign each row of `cost` (m, n), m <= n, to a column; returns each column's row or -1."""
    m, n = cost.shape
    u, v = np.zeros(m), np.zeros(n + 1)
    owner = np.full(n + 1, -1, np.int64)  # the last place is that of the row to be assigned
    way = np.empty(n, np.int64)
    nearest = np.empty(n)
    is_used = np.empty(n + 1, np.bool_)
    for i in range(m):
        owner[n] = i
        column = n
        nearest[:] = np.inf
        is_used[:] = False
        while owner[column] >= 0:
            is_used[column] = True
            column = _extend(cost, owner, column, u, v, nearest, way, is_used)
        while column != n:
            owner[column] = owner[way[column]]
            column = way[column]
    return owner[:n]


@kernel
def _extend(cost, owner, column, u, v, nearest, way, is_used):
    """Lengthen the shortest path by one column, which is returned; adapts the dual variables."""
    n = len(nearest)
    row = owner[column]
    step = np.inf
    following = 0
    for j in range(n):
        if is_used[j]:
            continue
        reduced = cost[row, j] - u[row] - v[j]
        if reduced < nearest[j]:
            nearest[j] = reduced
            way[j] = column
        if nearest[j] < step:
            step = nearest[j]
            following = j
    for j in range(n + 1):
        if is_used[j]:
            u[owner[j]] += step
            v[j] -= step
        elif j < n:
            nearest[j] -= step
    return following
