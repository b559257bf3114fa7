#!/usr/bin/env bash
# On 64 TPU chips, gathering weights that FSDP has split along their fastest axis into pieces narrower than 128 becomes an
# all-reduce of zeros with one's own piece in them: twice the bytes over the links.
#
# Expected: a weight [4096, 4096] laid out over 64 devices along its width (pieces of 64 columns) and used whole is
#   gathered by an all-gather, as over 16 devices (pieces of 256 columns).
# Seen (jax 0.10.2, libtpu 0.0.42.1, described v5p topologies): over 16 devices the program has an all-gather. Over 64 it
#   has none: broadcast, dynamic-update-slice and all-reduce of the whole array. So a look at the collectives of FSDP by
#   name finds none of its gathers, and they cost twice what a plan by hand says. (A TPU's registers have 128 lanes.)
#
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "jax[tpu]==0.10.2" "libtpu==0.0.42.1" 2>/dev/null

cat >"$work/gather.py" <<'PY'
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

for sides, gathers in (("2x2x4", True), ("4x4x4", False)):
    devices = topologies.get_topology_desc(platform="tpu", topology_name=f"v5p:{sides}").devices
    mesh = Mesh(np.array(devices), ("fsdp",), axis_types=(AxisType.Auto,))
    weight = jax.ShapeDtypeStruct((4096, 4096), jnp.bfloat16, sharding=NamedSharding(mesh, P(None, "fsdp")))
    rows = jax.ShapeDtypeStruct((len(devices) * 128, 4096), jnp.bfloat16, sharding=NamedSharding(mesh, P("fsdp")))
    with jax.set_mesh(mesh):
        compiled = jax.jit(jnp.matmul, out_shardings=NamedSharding(mesh, P("fsdp"))).lower(rows, weight).compile()
    kinds = re.findall(r" (all-gather|all-reduce)(?:-start)?\(", compiled.as_text())
    print(f"{len(devices)} devices, pieces of {4096 // len(devices)} columns: {sorted(set(kinds))}")
    if ("all-gather" in kinds) != gathers or ("all-reduce" in kinds) == gathers:
        sys.exit("changed")
PY
JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 TPU_ACCELERATOR_TYPE=v5litepod-8 TPU_WORKER_HOSTNAMES=localhost TPU_WORKER_ID=0 \
  TPU_LOG_DIR=disabled ALLOW_MULTIPLE_LIBTPU_LOAD=1 "$work/venv/bin/python" "$work/gather.py"
