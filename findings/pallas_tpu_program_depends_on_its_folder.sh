#!/usr/bin/env bash
# A Pallas TPU kernel is another program, and has another key in JAX's persistent compilation cache, when the file
# that defines it lies in another folder or the kernel moves down a line.
#
# Expected: `Lowered.as_text()` prints no locations unless asked (`debug_info=False`), and the cache key is computed
#   after MLIR's strip-debuginfo, so the same kernel has one text and one key wherever its source lies.
# Seen (jax 0.10.2): the kernel travels as serialised MLIR inside the custom call's backend_config, its
#   locations (file, line, column) with it. Neither the printer nor strip-debuginfo looks in there. Two checkouts of
#   one commit share no compiled kernel, and a comment above a kernel recompiles it.
# What helps: JAX_TRACEBACK_IN_LOCATIONS_LIMIT=0 takes the locations out; then text and key are equal.
#   JAX_INCLUDE_FULL_TRACEBACKS_IN_LOCATIONS=false does not help: one file and line stay.
#
#   In jax 0.12.0 (Python 3.12; tried by hand) the key no longer depends on the folder; the text still does.
#
# Lowers for TPU on a CPU; needs no TPU. Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "jax==0.10.2" 2>/dev/null

mkdir -p "$work/one" "$work/another/place"
cat >"$work/one/kernel.py" <<'PY'
import hashlib
import sys

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl


def double(x_ref, o_ref):
    o_ref[...] = 2.0 * x_ref[...]


def by_kernel(x):
    return pl.pallas_call(double, out_shape=jax.ShapeDtypeStruct((8, 128), jnp.float32))(x)


def plainly(x):
    return 2.0 * x


def main(function):
    x = jax.ShapeDtypeStruct((8, 128), jnp.float32)
    lowered = jax.jit(function).trace(x).lower(lowering_platforms=("tpu",))
    text = hashlib.sha256(lowered.as_text().encode()).hexdigest()[:12]
    from jax._src import cache_key  # the part of the key that is the program's

    program = hashlib.sha256()
    cache_key._hash_computation(program, lowered.compiler_ir("stablehlo"), cache_key.IgnoreCallbacks.NO)
    print(text, program.hexdigest()[:12])


main({"kernel": by_kernel, "plain": plainly}[sys.argv[1]])
PY
cp "$work/one/kernel.py" "$work/another/place/kernel.py"
mkdir "$work/lower"
{ echo "# a comment"; cat "$work/one/kernel.py"; } >"$work/lower/kernel.py"

# `hashes FOLDER kernel|plain [VARIABLE=VALUE]`: of the text, and of the program as the cache sees it.
hashes() {
  local folder=$1 which=$2
  shift 2
  (cd "$work/$folder" && env JAX_PLATFORMS=cpu "$@" "$work/venv/bin/python" kernel.py "$which" 2>/dev/null)
}
# `expect same|differ WHAT A B`: A and B are pairs of hashes.
expect() {
  local found
  [[ -n $3 && -n $4 ]] || { echo "$2: nothing was printed"; exit 1; }
  if [[ $3 == "$4" ]]; then found=same; elif [[ ${3% *} != "${4% *}" && ${3#* } != "${4#* }" ]]; then found=differ; else found=mixed; fi
  printf '%-46s %s | %s: %s\n' "$2" "$3" "$4" "$found"
  [[ $found == "$1" ]] || { echo "changed: expected $1"; exit 1; }
}

echo "jax $("$work/venv/bin/python" -c 'import jax; print(jax.__version__)'); text and key of the program"
expect same "plain program, two folders" "$(hashes one plain)" "$(hashes another/place plain)"
expect differ "kernel, two folders" "$(hashes one kernel)" "$(hashes another/place kernel)"
expect differ "kernel, one line lower" "$(hashes one kernel)" "$(hashes lower kernel)"
one_frame=JAX_INCLUDE_FULL_TRACEBACKS_IN_LOCATIONS=false
expect differ "kernel, two folders, one frame" "$(hashes one kernel $one_frame)" "$(hashes another/place kernel $one_frame)"
none=JAX_TRACEBACK_IN_LOCATIONS_LIMIT=0
expect same "kernel, two folders, no locations" "$(hashes one kernel $none)" "$(hashes another/place kernel $none)"
