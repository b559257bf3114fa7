#!/usr/bin/env bash
# Orbax: s3:// is on its list of remote prefixes, and becomes a relative local path.
#
# Expected: `tensorstore_utils` has `_REMOTE_URL_PREFIXES = ["gs://", "s3://"]`, and TensorStore has a driver for S3,
#   so a key-value store for "s3://bucket/run" is described as one for "gs://bucket/run" is.
# Seen (orbax-checkpoint 0.12.8): gs:// gives the driver `gcs` with its bucket. s3:// goes through os.path.normpath,
#   which takes a slash out; then OCDBT (the default) raises ValueError "Checkpoint path should be absolute. Got
#   s3:/bucket/run", and without OCDBT the store is the local file driver at `s3:/bucket/run`, with no error.
#   TensorStore itself opens the address with its driver `s3`.
# What helps: a mounted folder, or gs://, for checkpoints; a check of the scheme before a run begins, for otherwise it
#   is the first save that fails.
#
# Touches no network. Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  "jax==0.10.2" "orbax-checkpoint==0.12.8" "tensorstore==0.1.86" 2>/dev/null

cat >"$work/stores.py" <<'PY'
import sys
from importlib import metadata

import tensorstore as ts
from orbax.checkpoint._src.serialization import tensorstore_utils

print(*(f"{name} {metadata.version(name)}" for name in ("orbax-checkpoint", "tensorstore")), sep=", ")
changed = []


def expect(what, call, expected):
    try:
        found = str(call())
    except ValueError as error:
        found = f"ValueError: {error}"
    print(f"  {what:<24} {found}")
    if found != expected:
        changed.append(what)


def store(url, use_ocdbt):
    spec = tensorstore_utils.build_kvstore_tspec(url, use_ocdbt=use_ocdbt)
    return {key: spec.get("base", spec).get(key) for key in ("driver", "bucket", "path")}


gs = {"driver": "gcs", "bucket": "bucket", "path": "run"}
local = {"driver": "file", "bucket": None, "path": "s3:/bucket/run"}
refused = "ValueError: Checkpoint path should be absolute. Got s3:/bucket/run"
expect("remote prefixes", lambda: tensorstore_utils._REMOTE_URL_PREFIXES, "['gs://', 's3://']")
expect("gs://, OCDBT", lambda: store("gs://bucket/run", True), str(gs))
expect("gs://, no OCDBT", lambda: store("gs://bucket/run", False), str(gs))
expect("s3://, OCDBT", lambda: store("s3://bucket/run", True), refused)
expect("s3://, no OCDBT", lambda: store("s3://bucket/run", False), str(local))
expect("s3://, to TensorStore", lambda: ts.KvStore.Spec("s3://bucket/run").to_json()["driver"], "s3")
if changed:
    sys.exit(f"changed: {changed}")
PY
JAX_PLATFORMS=cpu "$work/venv/bin/python" "$work/stores.py"
