#!/usr/bin/env bash
# Delete the pod. What is on its disks is lost; checkpoints in a bucket stay.
#
#   tpu_scripts/delete.sh [--yes] [--queued]
#
# Options
#   --yes        do not ask
#   --queued     it was made with create.sh --queued: delete the request together with the pod; a pod of several
#                slices (SLICES) always was
#   -h, --help   this text
# Environment
#   TPU_NAME ZONE PROJECT   required; SLICES where there are several
#   DRY_RUN=1               print the commands instead of running them
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

yes=0 queued=0
while (($#)); do
  case $1 in
    --yes) yes=1 ;;
    --queued) queued=1 ;;
    -h | --help) show_help; exit 0 ;;
    *) die "unknown option '$1' (see --help)" ;;
  esac
  shift
done
check_settings

if ! ((yes)) && ! dry_run; then
  printf "Delete '%s' in %s of project %s? Type its name to confirm: " "$TPU_NAME" "$ZONE" "$PROJECT" >&2
  read -r answer || answer=
  [[ $answer == "$TPU_NAME" ]] || die "not deleted"
fi
if ((queued || SLICES > 1)); then
  build_command queued-resources delete "$TPU_NAME" --force
else
  build_command tpu-vm delete "$TPU_NAME"
fi
execute "${COMMAND[@]}"
