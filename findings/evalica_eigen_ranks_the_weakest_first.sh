#!/usr/bin/env bash
# evalica.eigen gives the strongest player the lowest score: its ranking is the other methods' turned round.
#
# Expected: evalica's methods take the same matches and return scores of which the greatest is the best; `eigen`
#   differs from `bradley_terry` in small swaps at most.
# Seen (evalica 0.4.2): on six players whose every pair met 20 times, the stronger winning more often, counting,
#   bradley_terry, newman, average_win_rate and pagerank all put `a` first and `f` last; eigen puts `f` first and `a`
#   last. Its scores are the leading eigenvector of the matrix of losses (row: loser), not that of wins, as numpy
#   finds it. The library's two solvers, one in Rust and one in Python, agree with each other.
# What helps: winners named the other way round for `eigen` alone, or another method.
#
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "evalica==0.4.2" "numpy==2.4.6" 2>/dev/null

cat >"$work/rank.py" <<'PY'
import sys
from importlib import metadata

import evalica
import numpy as np

print("evalica", metadata.version("evalica"))
names, changed = "abcdef", []
strength = np.linspace(2, -2, len(names))
wins = np.round(20 / (1 + np.exp(strength[None] - strength[:, None]))).astype(int)
np.fill_diagonal(wins, 0)
won, lost = zip(*((names[i], names[j]) for i, j in np.argwhere(wins) for _ in range(wins[i, j])), strict=True)
winners = [evalica.Winner.X] * len(won)


def expect(what, scores, expected):
    found = "".join(scores.sort_values(ascending=False).index)
    print(f"  {what:<34} {found}")
    if found != expected:
        changed.append(what)


for method in ("counting", "bradley_terry", "newman", "average_win_rate", "pagerank"):
    expect(method, getattr(evalica, method)(won, lost, winners).scores, "abcdef")
for solver in ("pyo3", "naive"):
    expect(f"eigen, {solver}", evalica.eigen(won, lost, winners, solver=solver).scores, "fedcba")
eigen = evalica.eigen(won, lost, winners).scores
expect("eigen, sides and winners exchanged", evalica.eigen(lost, won, [evalica.Winner.Y] * len(won)).scores, "fedcba")
expect("eigen, losers named as winners", evalica.eigen(won, lost, [evalica.Winner.Y] * len(won)).scores, "abcdef")

for what, matrix, same in (("wins", wins, False), ("losses", wins.T, True)):
    values, vectors = np.linalg.eig(matrix)
    leading = np.abs(vectors[:, values.real.argmax()].real)
    error = np.abs(leading - eigen.loc[list(names)].to_numpy()).max()
    print(f"  eigen and the eigenvector of {what:<6} differ by {error:.1g}")
    if (error < 1e-5) != same:
        changed.append(what)
if changed:
    sys.exit(f"changed: {changed}")
PY
"$work/venv/bin/python" "$work/rank.py"
