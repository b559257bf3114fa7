#!/usr/bin/env bash
# MuJoCo: mj_forward after mj_setState leaves another integration state, so a restored state does not continue exactly.
#
# Expected: mj_forward derives positions, contacts and forces from the state and leaves the state as it is; a program
#   that has restored a state may call it so that what is derived is up to date.
# Seen (mujoco 3.3.0): it overwrites qacc_warmstart, which is a part of mjSTATE_INTEGRATION and the start of the next
#   step's solver. Two boxes that touch: 12 numbers of the state change, and with the solvers CG and PGS positions
#   differ after 100 steps (2e-8 and 1e-9). Without the call the steps repeat bit for bit.
# What helps: no mj_forward after mj_setState (what is derived is old until the next mj_step), or mj_setState again
#   after it.
#
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "mujoco==3.3.0" "numpy==2.3.5" 2>/dev/null

cat >"$work/forward.py" <<'PY'
import sys

import mujoco
import numpy as np

WORLD = """<mujoco><option solver="{solver}"/><worldbody><geom type="plane" size="2 2 .1"/>
<body pos="0 0 .3"><freejoint/><geom type="box" size=".1 .1 .1"/></body>
<body pos=".05 0 .6"><freejoint/><geom type="box" size=".1 .1 .1"/></body></worldbody></mujoco>"""
KIND = mujoco.mjtState.mjSTATE_INTEGRATION


def read(model, data):
    state = np.empty(mujoco.mj_stateSize(model, KIND))
    mujoco.mj_getState(model, data, state, KIND)
    return state


def ahead(model, data, state, then):
    mujoco.mj_setState(model, data, state, KIND)
    for call in then:
        call()
    changed = int((read(model, data) != state).sum())
    for _ in range(100):
        mujoco.mj_step(model, data)
    return data.qpos.copy(), changed


changed_since = []
for solver in ("CG", "PGS"):
    model = mujoco.MjModel.from_xml_string(WORLD.format(solver=solver))
    data = mujoco.MjData(model)
    for _ in range(400):
        mujoco.mj_step(model, data)
    state = read(model, data)
    forward = lambda: mujoco.mj_forward(model, data)
    again = lambda: mujoco.mj_setState(model, data, state, KIND)
    plain, after, mended = (ahead(model, data, state, then) for then in ([], [forward], [forward, again]))
    repeats = np.array_equal(plain[0], ahead(model, data, state, [])[0])
    moved = np.abs(plain[0] - after[0]).max()
    print(f"mujoco {mujoco.__version__} {solver}: repeats {repeats}, mj_forward changes {after[1]} numbers of the state, "
          f"then positions by {moved:.1e}; restored once more: equal {np.array_equal(plain[0], mended[0])}")
    if not (repeats and plain[1] == 0 and after[1] > 0 and moved > 0 and np.array_equal(plain[0], mended[0])):
        changed_since.append(solver)
if changed_since:
    sys.exit(f"changed: {changed_since}")
PY
"$work/venv/bin/python" "$work/forward.py"
