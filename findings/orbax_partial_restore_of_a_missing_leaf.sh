#!/usr/bin/env bash
# Orbax, partial_restore=True: a leaf that the checkpoint lacks is returned as a ShapeDtypeStruct, with no error.
#
# Expected: partial_restore lets the target leave out what the checkpoint has. A target that asks for an array which
#   the checkpoint lacks is refused, as it is without partial_restore.
# Seen (orbax-checkpoint 0.12.8, jax 0.10.2): the arrays that are there are restored, and in place of the missing one
#   stands the target's own ShapeDtypeStruct; with `restore_args` given it is the same. It has a shape and a dtype and
#   passes checks of those, and the error comes where the model first computes with it. Misnamed layers look like
#   this: with every name changed (`dense_0` for `Dense_0`) nothing at all is restored, and nothing is said.
# What helps: a check that no leaf of the result is a ShapeDtypeStruct.
#
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "jax==0.10.2" "orbax-checkpoint==0.12.8" 2>/dev/null

cat >"$work/restore.py" <<'PY'
import logging
import sys
from importlib import metadata

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

logging.disable(logging.CRITICAL)
print("orbax-checkpoint", metadata.version("orbax-checkpoint"))
path, changed = sys.argv[1], []
place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
leaf = jax.ShapeDtypeStruct((3,), jnp.float32, sharding=place)


def expect(what, target, expected, explicit=False, **options):
    arguments = ocp.checkpoint_utils.construct_restore_args(target) if explicit else None
    with ocp.PyTreeCheckpointer() as checkpointer:
        try:
            args = ocp.args.PyTreeRestore(target, restore_args=arguments, **options)
            out = checkpointer.restore(path, args=args)
            found = {name: "array" if isinstance(x, jax.Array) else type(x).__name__ for name, x in out.items()}
        except ValueError:
            found = "ValueError"
    print(f"  {what:<38} {found}")
    if found != expected:
        changed.append(what)


with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path, {"kernel": jnp.ones(3), "bias": jnp.zeros(3)})
more = {"kernel": leaf, "scale": leaf}
expect("kernel, partial", {"kernel": leaf}, {"kernel": "array"}, partial_restore=True)
expect("kernel and scale", {"kernel": leaf, "bias": leaf, "scale": leaf}, "ValueError")
mixed = {"kernel": "array", "scale": "ShapeDtypeStruct"}
expect("kernel and scale, partial", more, mixed, partial_restore=True)
expect("kernel and scale, partial, with args", more, mixed, explicit=True, partial_restore=True)
expect("Kernel alone, partial", {"Kernel": leaf}, {"Kernel": "ShapeDtypeStruct"}, partial_restore=True)
if changed:
    sys.exit(f"changed: {changed}")
PY
JAX_PLATFORMS=cpu "$work/venv/bin/python" "$work/restore.py" "$work/saved" 2>/dev/null
