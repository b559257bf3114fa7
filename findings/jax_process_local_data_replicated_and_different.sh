#!/usr/bin/env bash
# jax.make_array_from_process_local_data, with a batch axis that does not run over the processes, makes one
# "replicated" array that holds different numbers on each process; a check of it says all is equal.
#
# Expected: two processes, mesh (data=1, tensor=2), each with its own four rows, PartitionSpec("data"): either a batch
#   of eight rows, or an error like the one of `jax.device_put`, which compares the processes' numbers first.
# Seen (jax 0.10.2, and 0.12.0.1 on Python 3.12; two CPU processes, gloo): no error. The shape is (4,), and
#   `is_fully_replicated` is True, while each process holds its own rows. A jitted sum is 46 on one process and 86 on
#   the other, and its result counts as replicated. A product with a weight that is sharded over `tensor` adds a part
#   of the one batch and a part of the other, and both processes agree on that number. `multihost_utils.assert_equal`
#   of the array passes, for each process compares its own copy with itself; of the local rows it raises. `device_put`
#   of the rows raises. (0.12.0.1 was tried by hand.)
# What helps: the number of rows a process gives read from the sharding (`devices_indices_map`), and rows that are the
#   same on processes that hold the same part; `assert_equal` on the numpy rows, before the array is made.
#
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "jax==0.10.2" 2>/dev/null

cat >"$work/process.py" <<'PY'
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

process, port = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", 2, int(process))
devices = np.array(jax.devices())
mesh = jax.sharding.Mesh(devices.reshape(1, 2), ("data", "tensor"))
by_data = NamedSharding(mesh, P("data"))
rows = np.arange(4, dtype=np.float32) + 10 * (int(process) + 1)


def outcome(call):
    try:
        call()
    except AssertionError:
        return "raises"
    return "passes"


def total(x):
    return int(jax.jit(jnp.sum)(x))


x = jax.make_array_from_process_local_data(by_data, rows)
weight = jax.make_array_from_process_local_data(NamedSharding(mesh, P(None, "tensor")), np.ones((4, 1), np.float32))
product = jax.jit(lambda x, w: (x @ w).sum(), out_shardings=NamedSharding(mesh, P()))
split = NamedSharding(jax.sharding.Mesh(devices.reshape(2, 1), ("data", "tensor")), P("data"))
y = jax.make_array_from_process_local_data(split, rows)

print(f"process {process}, rows {rows.astype(int).tolist()}")
print(f"data=1: shape {x.shape}, replicated {x.is_fully_replicated}, holds {np.asarray(x).astype(int).tolist()}")
print(f"data=1: sum {total(x)}, its result replicated {jax.jit(jnp.sum)(x).is_fully_replicated}")
print(f"data=1: sum of the product with a sharded weight {int(product(x, weight))}")
print(f"assert_equal of the array {outcome(lambda: multihost_utils.assert_equal(x))}")
print(f"assert_equal of the rows {outcome(lambda: multihost_utils.assert_equal(rows))}")
print(f"device_put of the rows {outcome(lambda: jax.device_put(rows, by_data))}")
print(f"data=2: shape {y.shape}, sum {total(y)}")
PY
# `expected ROWS SUM PROCESS`
expected() {
  cat <<TEXT
process $3, rows $1
data=1: shape (4,), replicated True, holds $1
data=1: sum $2, its result replicated True
data=1: sum of the product with a sharded weight 132
assert_equal of the array passes
assert_equal of the rows raises
device_put of the rows raises
data=2: shape (8,), sum 132
TEXT
}
port=$("$work/venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')
echo "jax $("$work/venv/bin/python" -c 'import jax; print(jax.__version__)')"
for process in 0 1; do
  JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=1 JAX_CPU_COLLECTIVES_IMPLEMENTATION=gloo timeout 120 \
    "$work/venv/bin/python" "$work/process.py" $process "$port" >"$work/said.$process" 2>"$work/errors.$process" &
  pids[process]=$!
done
for process in 0 1; do
  wait "${pids[process]}" || { tail -5 "$work/errors.$process"; exit 1; }
done
expected "[10, 11, 12, 13]" 46 0 >"$work/expected.0"
expected "[20, 21, 22, 23]" 86 1 >"$work/expected.1"
for process in 0 1; do
  grep -v Gloo "$work/said.$process"
  diff <(grep -v Gloo "$work/said.$process") "$work/expected.$process" || { echo "changed"; exit 1; }
done
