#!/usr/bin/env bash
# optax.clip_by_global_norm lets gradients of twice its limit through when they are many bfloat16 arrays.
#
# Expected: after clip_by_global_norm(1) the global norm is 1 within the rounding of the type, half a percent in
#   bfloat16.
# Seen (optax 0.2.8, jax 0.10.2): the squared norms of the leaves are summed in the type of the leaves, one by one,
#   and a bfloat16 sum of ones stops at 256 (256 + 1 is 256). 1,000 leaves of norm 1 have global norm 16 for optax
#   (31.6 is right), and what is clipped to 1 has norm 1.98. The same numbers in one leaf are clipped to 1.00. Biases,
#   scales of norms and adapters of a deep model are such leaves. In float16 the other end: squares above 65,504 are
#   inf, and all updates become 0.
# What helps: float32 gradients before the clip, or layers that are stacked (scan) in few leaves.
#
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "jax==0.10.2" "optax==0.2.8" 2>/dev/null

cat >"$work/clip.py" <<'PY'
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

print(f"optax {optax.__version__}, jax {jax.__version__}")
changed = []


def expect(what, gradients, expected, low, high):
    clip = optax.clip_by_global_norm(1.0)
    clipped, _ = clip.update(gradients, clip.init(gradients))
    true = np.sqrt(sum(float((np.asarray(x, np.float64) ** 2).sum()) for x in jax.tree.leaves(clipped)))
    norm = float(optax.tree.norm(gradients))
    print(f"  {what:<40} norm by optax {norm:<8.5g} clipped to 1, in float64: {true:.4f}")
    if not (norm == expected and low <= true <= high):
        changed.append(what)


def leaves(n, size, dtype, value=1.0):
    return [jnp.full(size, value, dtype) for _ in range(n)]


expect("1,000 leaves of norm 1, float32", leaves(1000, 1, jnp.float32), float(jnp.sqrt(1000.0)), 0.999, 1.001)
expect("1,000 leaves of norm 1, bfloat16", leaves(1000, 1, jnp.bfloat16), 16, 1.95, 2)
expect("one leaf of 1,000 ones, bfloat16", leaves(1, 1000, jnp.bfloat16), 31.625, 0.99, 1.01)
expect("one leaf of 300s, bfloat16", leaves(1, 1000, jnp.bfloat16, 300.0), 9472, 0.99, 1.01)
expect("one leaf of 300s, float16", leaves(1, 1000, jnp.float16, 300.0), float("inf"), 0, 0)
if changed:
    sys.exit(f"changed: {changed}")
PY
JAX_PLATFORMS=cpu "$work/venv/bin/python" "$work/clip.py"
