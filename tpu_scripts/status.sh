#!/usr/bin/env bash
# State of the pod and of the command on every worker.
#
#   tpu_scripts/status.sh [--queued]
#
# Options
#   --queued     also show the queued resource; enough while it waits for capacity
#   -h, --help   this text
# Environment
#   TPU_NAME ZONE PROJECT   required; SLICES where there are several
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
absent=0
while read -r node; do
  build_command tpu-vm describe "$node" '--format=value(name.basename(),state,health,acceleratorType)'
  execute "${COMMAND[@]}" || absent=1
done < <(node_names)
if ((absent)); then
  if ((queued)); then exit 0; fi
  die "no TPU '$TPU_NAME' of $SLICES slice(s) in $ZONE of project $PROJECT"
fi

worker_script="$JOB_STATE
if test \"\$state\" = none; then echo \"\$(hostname): no command yet\"; exit 0; fi
case \$state in
  'exited 124') state='exited with 124: its --max-hours were over' ;;
  'exited '*) state=\"exited with \${state#* }\" ;;
  'stopped '*) state=\"exited with \${state#* } after SIGTERM\" ;;
esac
echo \"\$(hostname): \$state, started \$(cat id): \$(head -c 200 command)\"
tail -n 1 log | cut -c 1-200"
build_on_workers all "$worker_script"
execute_retrying "${COMMAND[@]}"
