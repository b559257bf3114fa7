#!/usr/bin/env bash
# openskill: for two well-known, equal players, win 1/2, lose 1/2, and draw 1/2; the less is known, the fewer draws.
#
# Expected: predict_win and predict_draw of one match are parts of one distribution: either the chances to win and to
#   draw sum to 1, or (the Plackett-Luce model has no draws) the chance of a draw is near 0.
# Seen (openskill 6.2.0): predict_win sums to 1 by itself, and predict_draw comes on top: two players at mu 25 with
#   sigma 0.001 have 0.5, 0.5 and 0.5. With the default sigma it is 0.24 and with sigma 100 it is 0.02; eight equal
#   players draw with 0.25. All five models give the same number. Their `rate` does learn from draws. So a simulated
#   or a calibrated three-way outcome cannot be read from the two functions.
# What helps: predict_win alone as P(first is preferred | no tie); ties modelled by oneself (Davidson, Rao-Kupper).
#
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "openskill==6.2.0" 2>/dev/null

cat >"$work/draws.py" <<'PY'
import sys
from importlib import metadata

from openskill import models

print("openskill", metadata.version("openskill"))
changed = []
names = ("PlackettLuce", "BradleyTerryFull", "BradleyTerryPart", "ThurstoneMostellerFull", "ThurstoneMostellerPart")


def expect(name, sigma, players, expected):
    model = getattr(models, name)()
    teams = [[model.rating(mu=25, sigma=sigma)] for _ in range(players)]
    found = round(sum(model.predict_win(teams)), 2), round(model.predict_draw(teams), 2)
    print(f"  {name:<23} {players} equal players, sigma {sigma:<6.4g} wins sum to {found[0]}, draw {found[1]}")
    if found != expected:
        changed.append((name, sigma, players))


for name in names:
    expect(name, 0.001, 2, (1, 0.5))
expect("PlackettLuce", 25 / 3, 2, (1, 0.24))
expect("PlackettLuce", 100, 2, (1, 0.02))
expect("PlackettLuce", 0.001, 8, (1, 0.25))
if changed:
    sys.exit(f"changed: {changed}")
PY
"$work/venv/bin/python" "$work/draws.py"
