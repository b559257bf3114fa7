#!/usr/bin/env bash
# State of the pod and of the command on every worker.
#
#   tpu_scripts/status.sh [--queued]
#
# Options
#   --queued     also show the queued resource; enough while it waits for capacity
#   -h, --help   this text
# Environment
#   TPU_NAME ZONE PROJECT   required
#   SSH_FLAGS               extra flags of gcloud ssh, e.g. --internal-ip
#   DRY_RUN=1               print the commands instead of running them
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

queued=0
while (($#)); do
  case $1 in
    --queued) queued=1 ;;
    -h | --help) show_help; exit 0 ;;
    *) die "unknown option '$1' (see --help)" ;;
  esac
  shift
done
check_settings

if ((queued)); then
  build_command queued-resources describe "$TPU_NAME" '--format=value(state.state)'
  execute "${COMMAND[@]}"
fi
build_command tpu-vm describe "$TPU_NAME" '--format=value(state,health,acceleratorType)'
if ! execute "${COMMAND[@]}"; then
  if ((queued)); then exit 0; fi
  die "no TPU '$TPU_NAME' in $ZONE of project $PROJECT"
fi

worker_script="cd $REMOTE_JOB 2>/dev/null || { echo \"\$(hostname): no command yet\"; exit 0; }
if test -f status; then state=\"exited with \$(cat status)\"
elif kill -0 -- -\$(cat pid) 2>/dev/null; then state=running
else state='killed'; fi
echo \"\$(hostname): \$state, started \$(cat id): \$(head -c 200 command)\"
tail -n 1 log | cut -c 1-200"
build_on_workers all "$worker_script"
execute_retrying "${COMMAND[@]}"
