#!/usr/bin/env bash
# Orbax: one NaN among the metrics, and the best checkpoint is deleted in favour of a later, worse one.
#
# Expected: with `best_fn`, a checkpoint whose metric is NaN is never the best and changes nothing for the others: of
#   rewards 1, 3, NaN, 2 the best (mode "max") is step 1 and, with max_to_keep=1, the one kept.
# Seen (orbax-checkpoint 0.12.8, jax 0.10.2): the checkpoints are sorted by the metric, and a sort whose comparisons
#   with NaN are all false leaves the list in parts: `best_step()` is step 3 (reward 2) for "max" and for "min" alike,
#   and max_to_keep=1 deletes the others. It is the same with BestN of the preservation policies. Where the NaN comes
#   last, the NaN itself is the best.
# What helps: a `best_fn` that makes NaN the worst value (-inf for "max", inf for "min"), or no metrics with that
#   save.
#
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "jax==0.10.2" "orbax-checkpoint==0.12.8" 2>/dev/null

cat >"$work/best.py" <<'PY'
import logging
import math
import sys
import tempfile
from importlib import metadata

import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

logging.disable(logging.CRITICAL)
print("orbax-checkpoint", metadata.version("orbax-checkpoint"))
nan, changed = math.nan, []


def reward(metrics):
    return metrics["reward"]


def worst_if_nan(metrics):
    return -math.inf if math.isnan(metrics["reward"]) else metrics["reward"]


def expect(rewards, expected, mode="max", best_fn=reward, **options):
    options = ocp.CheckpointManagerOptions(best_fn=best_fn, best_mode=mode, **options)
    with tempfile.TemporaryDirectory() as folder, ocp.CheckpointManager(folder, options=options) as manager:
        for step, value in enumerate(rewards):
            manager.save(step, args=ocp.args.StandardSave({"w": np.ones(2)}), metrics={"reward": value})
            manager.wait_until_finished()
        found = manager.best_step(), list(manager.all_steps())
    what = f"rewards {rewards}, {mode}, {best_fn.__name__}, {', '.join(options_given(options))}"
    print(f"  {what:<76} best {found[0]}, kept {found[1]}")
    if found != expected:
        changed.append(what)


def options_given(options):
    kept = "keep all" if options.max_to_keep is None else f"keep {options.max_to_keep}"
    return [kept if options.preservation_policy is None else "policy BestN(1)"]


policy = checkpoint_managers.BestN(get_metric_fn=reward, n=1)
expect([1.0, 3.0, 2.0], (1, [1]), max_to_keep=1)
expect([1.0, 3.0, nan, 2.0], (3, [3]), max_to_keep=1)
expect([1.0, 3.0, nan, 2.0], (3, [3]), mode="min", max_to_keep=1)
expect([1.0, 3.0, nan, 2.0], (3, [0, 1, 2, 3]))
expect([1.0, 3.0, nan, 2.0], (3, [3]), preservation_policy=policy)
expect([1.0, 3.0, nan], (2, [2]), max_to_keep=1)
expect([1.0, 3.0, nan, 2.0], (1, [1]), best_fn=worst_if_nan, max_to_keep=1)
if changed:
    sys.exit(f"changed: {changed}")
PY
JAX_PLATFORMS=cpu "$work/venv/bin/python" "$work/best.py" 2>/dev/null
