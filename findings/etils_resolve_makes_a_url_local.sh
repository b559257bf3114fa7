#!/usr/bin/env bash
# etils: resolve() and absolute() of a gs:// path give a path of this machine under the working directory.
#
# Expected: `epath.Path("gs://a/b")` says of itself that it is absolute, so `absolute()` and `resolve()` return it as
#   it is, and a program may call them on whatever path it was given.
# Seen (etils 1.15.0): both return `<working directory>/gs:/a/b`, with no error. What is written there lies on the
#   local disk, in a folder named `gs:`. `/`, `parent` and `as_uri` keep the scheme.
# What helps: `resolve` and `absolute` only for paths without a scheme.
#
# Touches no network. Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "etils[epath]==1.15.0" 2>/dev/null

cat >"$work/paths.py" <<'PY'
import os
import sys
from importlib import metadata

from etils import epath

print("etils", metadata.version("etils"))
changed = []


def expect(what, found, expected):
    print(f"  {what:<40} {found}")
    if str(found) != str(expected):
        changed.append(what)


for url in ("gs://a/b", "s3://a/b"):
    path, scheme = epath.Path(url), url[:2]
    local = f"{os.getcwd()}/{scheme}:/a/b"
    expect(f"{url}, is_absolute()", path.is_absolute(), True)
    expect(f"{url}, parent / 'c'", path.parent / "c", f"{scheme}://a/c")
    expect(f"{url}, as_uri()", path.as_uri(), url)
    expect(f"{url}, absolute()", path.absolute(), local)
    expect(f"{url}, resolve()", path.resolve(), local)
if changed:
    sys.exit(f"changed: {changed}")
PY
mkdir "$work/here"
cd "$work/here"
"$work/venv/bin/python" "$work/paths.py"
