#!/usr/bin/env bash
# An entry of jax's compilation cache that a kill cut short is never written again: each start warns and compiles.
#
# Expected: a damaged entry is either written atomically in the first place or replaced by the program that was compiled
#   because it could not be read.
# Seen (jax 0.10.2, CPU): entries are written in place. One of half its length gives a warning ("Error reading persistent
#   compilation cache entry") and the right result; the program is compiled, and the entry stays as it is, at this start
#   and at every later one, since a file of that name is there already.
#
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "jax==0.10.2" 2>/dev/null

cat >"$work/program.py" <<'PY'
import jax
import jax.numpy as jnp

print(float(jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((8, 8)))[0, 0]))
PY
cat >"$work/cut.py" <<'PY'
import os
import pathlib
import subprocess
import sys

work = pathlib.Path(sys.argv[1])
cache = work / "cache"
settings = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(cache),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}


def start():
    done = subprocess.run([sys.executable, work / "program.py"], env=settings, capture_output=True, text=True)
    return done.stdout.strip(), done.stderr.count("Error reading persistent compilation cache")


first, warnings = start()
entries = sorted(cache.glob("*-cache"))
if warnings or not entries:
    sys.exit("changed: no entry is kept")
for entry in entries:
    os.truncate(entry, entry.stat().st_size // 2)
sizes = [entry.stat().st_size for entry in entries]
for again in range(2):
    result, warnings = start()
    same = sizes == [entry.stat().st_size for entry in entries]
    print(f"start {again + 2}: result {result}, {warnings} warnings, entries as they were cut: {same}")
    if result != first or not warnings or not same:
        sys.exit("changed")
PY
"$work/venv/bin/python" "$work/cut.py" "$work"
