#!/usr/bin/env bash
# Install jaxpref on every worker from the current git commit. Safe to repeat; do so after each commit.
#
#   tpu_scripts/setup.sh
#
# What is committed is installed: uncommitted changes are not copied (a warning says so).
#
# Options
#   --extras LIST    extras to install, default tpu; tpu,gguf reads GGUF models and their tokenizers, tpu,hf a
#                    tokenizer.json, tpu,gcs gs:// without TensorFlow
#   --python V       Python version, default 3.12. Where the image has none, uv fetches it.
#   -h, --help       this text
# Environment
#   TPU_NAME ZONE PROJECT   required; SLICES where there are several
#   SSH_FLAGS               extra flags of gcloud ssh and scp, e.g. --internal-ip
#   RETRIES, RETRY_PAUSE    attempts (4) and seconds between them (10, growing)
#   DRY_RUN=1               print the commands instead of running them
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

extras=tpu
python=3.12
while (($#)); do
  case $1 in
    --extras) extras=$(option_value "$1" $# "${2-}"); shift ;;
    --python) python=$(option_value "$1" $# "${2-}"); shift ;;
    -h | --help) show_help; exit 0 ;;
    *) die "unknown option '$1' (see --help)" ;;
  esac
  shift
done
check_settings
[[ $extras =~ ^[a-z0-9,]+$ ]] || die "--extras: expected names with commas, got '$extras'"
[[ $python =~ ^3\.[0-9]+$ ]] || die "--python: expected a version like 3.12, got '$python'"

root=$(git -C "$(dirname "${BASH_SOURCE[0]}")" rev-parse --show-toplevel) || die "not in a git checkout"
commit=$(git -C "$root" rev-parse --short=12 HEAD)
if [[ -n $(git -C "$root" status --porcelain --untracked-files=no) ]]; then
  note "warning: uncommitted changes are not copied; the workers get commit $commit"
fi
archive=jaxpref-$commit.tar.gz
if dry_run; then folder=/tmp; else folder=$(mktemp -d); fi
trap 'dry_run || rm -rf "$folder"' EXIT
execute git -C "$root" archive --format=tar.gz "--output=$folder/$archive" HEAD

read -r -a ssh_flags <<<"${SSH_FLAGS:-}"
kind=(tpu-vm) nodes=()
((SLICES == 1)) || kind=(queued-resources) nodes=(--node=all)
build_command "${kind[@]}" scp "$folder/$archive" "$TPU_NAME:$archive" ${nodes[@]+"${nodes[@]}"} --worker=all \
  ${ssh_flags[@]+"${ssh_flags[@]}"}
execute_retrying "${COMMAND[@]}"

# Every step may be repeated: a retry reaches the workers where the first attempt succeeded, too.
# The old code stays until the new one is unpacked, so a broken copy leaves a working install.
worker_script="set -eu
if test \"\$(cat $REMOTE_CODE/COMMIT 2>/dev/null)\" != $commit; then
  rm -rf $REMOTE_CODE.new
  mkdir $REMOTE_CODE.new
  tar -xzf $archive -C $REMOTE_CODE.new
  echo $commit > $REMOTE_CODE.new/COMMIT
  rm -rf $REMOTE_CODE
  mv $REMOTE_CODE.new $REMOTE_CODE
fi
rm -f $archive
if ! test -x $REMOTE_VENV/bin/pip; then
  rm -rf $REMOTE_VENV
  if ! python$python -m venv $REMOTE_VENV 2>/dev/null; then
    rm -rf $REMOTE_VENV
    python3 -m pip install --user --quiet uv
    python3 -m uv venv --quiet --seed --python $python $REMOTE_VENV
  fi
fi
cd $REMOTE_CODE
../$REMOTE_VENV/bin/pip install --quiet -c constraints.txt -e '.[$extras]'
../$REMOTE_VENV/bin/python -c 'import jaxpref'
echo \"\$(hostname): jaxpref $commit installed\""
if dry_run; then
  build_on_workers all "$worker_script"
  execute "${COMMAND[@]}"
  exit
fi
ask_workers "$worker_script" || { printf '%s\n' "$ANSWER"; die "some workers could not install it; see above"; }
printf '%s\n' "$ANSWER"
workers=$(count_workers) || die "installed, but on how many of the workers is not known"
installed=$(count_lines "$(hosts_that "jaxpref $commit installed")")
((installed == workers)) || die "installed on $installed of $workers workers; try again"
