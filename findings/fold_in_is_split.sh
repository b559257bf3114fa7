#!/usr/bin/env bash
# jax.random.fold_in(key, i) and jax.random.split(key, n)[i] are the same key, for every n above i.
#
# Expected: two derivations of keys that one program may mix (a key split for the parts of a model, and folded with the
#   number of a step or of a layer) give unrelated keys.
# Seen (jax 0.10.2): they are equal bit for bit with the default threefry keys, so an array drawn from fold_in(key, 2)
#   is the array drawn from split(key, 3)[2]: a head that is initialised under a folded key equals, in part, a table
#   initialised under a split one. With jax_threefry_partitionable off they differ. Keys of the implementation rbg share
#   the equality.
# What helps: one way of deriving keys in a program; or a first fold by purpose, and splits of that alone.
#
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "jax==0.10.2" 2>/dev/null

cat >"$work/keys.py" <<'PY'
import sys

import jax
import numpy as np

implementation, expected = sys.argv[1:]
key = jax.random.key(7, impl=implementation)
data = jax.random.key_data
equal = [
    bool((data(jax.random.fold_in(key, i)) == data(jax.random.split(key, n)[i])).all())
    for n in (2, 3, 50)
    for i in range(n)
]
drawn = np.array_equal(
    jax.random.normal(jax.random.fold_in(key, 2), (4, 8)), jax.random.normal(jax.random.split(key, 3)[2], (4, 8))
)
found = "same" if all(equal) and drawn else "differ" if not any(equal) and not drawn else "mixed"
flag = jax.config.jax_threefry_partitionable
print(f"jax {jax.__version__}, {implementation}, jax_threefry_partitionable={flag}: {found} ({len(equal)} keys)")
if found != expected:
    sys.exit(f"changed: expected {expected}")
PY
keys() { env JAX_PLATFORMS=cpu "$@"; }
keys "$work/venv/bin/python" "$work/keys.py" threefry2x32 same
keys JAX_THREEFRY_PARTITIONABLE=false "$work/venv/bin/python" "$work/keys.py" threefry2x32 differ
keys "$work/venv/bin/python" "$work/keys.py" rbg same
