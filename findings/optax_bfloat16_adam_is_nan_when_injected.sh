#!/usr/bin/env bash
# optax.inject_hyperparams(optax.adam) makes every update of bfloat16 parameters NaN; the same adam as it is does not.
#
# Expected: wrapping an optimizer in inject_hyperparams, so that its learning rate can be read or changed, leaves its
#   updates as they were.
# Seen (optax 0.2.8, jax 0.10.2): all numbers among the arguments are injected, not the learning rate alone, and cast
#   to the widest type among the parameters. In bfloat16 0.999 is 1, so b2 = 1, the bias correction is 1 - 1 = 0, and
#   the first update is 0/0. adamw is the same. One float32 leaf beside the others is enough to keep all in order.
# What helps: inject the learning rate alone (a factory of that one argument), or `hyperparam_dtype=jnp.float32`.
#
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "jax==0.10.2" "optax==0.2.8" 2>/dev/null

cat >"$work/update.py" <<'PY'
import sys

import jax
import jax.numpy as jnp
import optax

print(f"optax {optax.__version__}, jax {jax.__version__}")
changed = []
bf16, f32 = jnp.ones(3, jnp.bfloat16), jnp.ones(3, jnp.float32)


def expect(what, optimizer, params, expected):
    updates, _ = optimizer.update(jax.tree.map(lambda x: x / 2, params), optimizer.init(params), params)
    found = ["NaN" if bool(jnp.isnan(x).all()) else f"{float(x[0]):.4f}" for x in jax.tree.leaves(updates)]
    print(f"  {what:<52} first update {found}")
    if found != expected:
        changed.append(what)


inject = optax.inject_hyperparams
by_rate = inject(lambda learning_rate: optax.adam(learning_rate))
in_f32 = inject(optax.adam, hyperparam_dtype=jnp.float32)
expect("adam(1e-3)", optax.adam(1e-3), {"w": bf16}, ["-0.0010"])
expect("inject_hyperparams(adam)(1e-3), float32", inject(optax.adam)(1e-3), {"w": f32}, ["-0.0010"])
expect("inject_hyperparams(adam)(1e-3)", inject(optax.adam)(1e-3), {"w": bf16}, ["NaN"])
expect("inject_hyperparams(adamw)(1e-3)", inject(optax.adamw)(1e-3), {"w": bf16}, ["NaN"])
expect("the same adam, leaves bfloat16, float32", inject(optax.adam)(1e-3), {"a": bf16, "b": f32}, ["-0.0010"] * 2)
expect("learning rate alone injected", by_rate(learning_rate=1e-3), {"w": bf16}, ["-0.0010"])
expect("hyperparam_dtype=float32", in_f32(1e-3), {"w": bf16}, ["-0.0010"])
if changed:
    sys.exit(f"changed: {changed}")
PY
JAX_PLATFORMS=cpu "$work/venv/bin/python" "$work/update.py"
