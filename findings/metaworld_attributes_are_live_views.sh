#!/usr/bin/env bash
# Meta-World: init_left_pad, init_right_pad and door-lock's obj_init_pos are not where things were at the start.
#
# Expected: attributes called "init" are numbers from the reset: the reward of a step compares with where the fingers
#   and the object were then.
# Seen (metaworld 3.1.1, mujoco 3.3.0): init_left_pad and init_right_pad are views into MuJoCo's xpos in all 50 tasks,
#   obj_init_pos is one in door-lock-v3 and door-unlock-v3, and _target_pos one into the model in basketball-v3 and
#   bin-picking-v3. They move with the arm, and rewards are computed with where it is now. So who saves and restores
#   a task's attributes with copy.deepcopy freezes them and changes the rewards: sweep-into-v3, 20 steps of the expert
#   and then 40 more, gives other rewards after deepcopies of the two arrays are put in their place.
# What helps: leave arrays alone whose memory is the simulator's (numpy.may_share_memory) when a state is restored.
#
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "metaworld==3.1.1" "mujoco==3.3.0" \
  "gymnasium==1.4.0" "numpy==2.3.5" "packaging==26.3" 2>/dev/null

cat >"$work/views.py" <<'PY'
import collections
import copy
import sys
import warnings
from importlib import metadata

import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE as WORLDS
from metaworld.policies import ENV_POLICY_MAP as EXPERTS

warnings.simplefilter("ignore")


def started(task):
    world = WORLDS[f"{task}-goal-observable"](seed=0)
    world.seeded_rand_vec, world._freeze_rand_vec = True, False
    world.seed(3)
    return world, world.reset()[0]


views = collections.defaultdict(list)
for task in sorted(EXPERTS):
    world, _ = started(task)
    arrays = [
        a for o in (world.data, world.model) for n in dir(o) if isinstance(a := getattr(o, n), np.ndarray)
    ]
    for name, value in vars(world).items():
        if isinstance(value, np.ndarray) and any(np.may_share_memory(value, a) for a in arrays):
            views[name].append(task)


def earned(frozen):
    world, seen = started("sweep-into-v3")
    expert, total = EXPERTS["sweep-into-v3"](), 0.0
    for step in range(60):
        if frozen and step == 20:
            for name in ("init_left_pad", "init_right_pad"):
                setattr(world, name, copy.deepcopy(getattr(world, name)))
        seen, reward, *_ = world.step(np.clip(expert.get_action(seen), -1, 1))
        total += reward if step >= 20 else 0
    return float(total)


found = {name: tasks if len(tasks) < 50 else "all 50" for name, tasks in views.items()}
live, frozen = earned(False), earned(True)
print("metaworld", metadata.version("metaworld"), "mujoco", metadata.version("mujoco"), found)
print(f"sweep-into-v3, steps 21 to 60: reward {live:.4f}, with the two arrays copied {frozen:.4f}")
expected = {
    "init_left_pad": "all 50",
    "init_right_pad": "all 50",
    "obj_init_pos": ["door-lock-v3", "door-unlock-v3"],
    "_target_pos": ["basketball-v3", "bin-picking-v3"],
}
if found != expected or abs(live - frozen) < 0.1:
    sys.exit("changed")
PY
"$work/venv/bin/python" "$work/views.py"
