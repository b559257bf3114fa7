#!/usr/bin/env bash
# etils: where TensorFlow is installed, an s3:// path fails although s3fs is installed as well.
#
# Expected: `epath.Path("s3://...")` goes through s3fs, which is installed for it; TensorFlow, which some other
#   package brought along, is at most a second choice.
# Seen (etils 1.15.0, tensorflow-cpu 2.21.0): every scheme goes to tf.io.gfile where `import tensorflow` works, and
#   TensorFlow no longer has s3: UnimplementedError "File system scheme 's3' not implemented". s3fs is not asked. So a
#   program that reads s3:// stops doing so when TensorFlow is installed beside it.
# What helps: EPATH_USE_TF=false. Then s3fs is asked (here it finds nobody at the address it is given).
#
# Touches no network. Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  "etils[epath]==1.15.0" "tensorflow-cpu==2.21.0" "s3fs==2026.9.0" 2>/dev/null

cat >"$work/exists.py" <<'PY'
from importlib import metadata

from etils import epath

print(*(f"{name} {metadata.version(name)}" for name in ("etils", "tensorflow-cpu", "s3fs")), sep=", ", end=": ")
try:
    print(epath.Path("s3://bucket/file").exists())
except Exception as error:
    print(type(error).__module__.split(".")[0], type(error).__name__, str(error).splitlines()[0])
PY
# `expect WORD WHAT [VARIABLE=VALUE]`: what `exists()` says holds WORD. Nobody listens at the address.
expect() {
  local word=$1 what=$2 said
  shift 2
  said=$(env AWS_ENDPOINT_URL=http://127.0.0.1:9 AWS_ACCESS_KEY_ID=none AWS_SECRET_ACCESS_KEY=none \
    AWS_DEFAULT_REGION=none AWS_MAX_ATTEMPTS=1 "$@" "$work/venv/bin/python" "$work/exists.py" 2>/dev/null)
  printf '%s\n  %s\n' "$what" "$said"
  [[ $said == *"$word"* ]] || { echo "changed: expected $word"; exit 1; }
}
expect "UnimplementedError File system scheme 's3' not implemented" "as installed" EPATH_USE_TF=
expect "botocore" "EPATH_USE_TF=false" EPATH_USE_TF=false
