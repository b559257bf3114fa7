#!/usr/bin/env bash
# Follow the log of one worker, or of all with the worker's name before each line.
#
#   tpu_scripts/logs.sh [--worker N | --worker all] [--lines N] [--no-follow]
#
# Options
#   --worker N     which worker, default 0; or 'all'
#   --slice N      of which slice, default 0, where there are several
#   --lines N      how many lines to begin with, default 100
#   --no-follow    print and return
#   -h, --help     this text
# Environment
#   TPU_NAME ZONE PROJECT   required; SLICES where there are several
#   SSH_FLAGS               extra flags of gcloud ssh, e.g. --internal-ip
#   DRY_RUN=1               print the commands instead of running them
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

worker=0 slice=0 lines=100 follow=1
while (($#)); do
  case $1 in
    --worker) worker=$(option_value "$1" $# "${2-}"); shift ;;
    --slice) slice=$(option_value "$1" $# "${2-}"); shift ;;
    --lines) lines=$(option_value "$1" $# "${2-}"); shift ;;
    --no-follow) follow=0 ;;
    -h | --help) show_help; exit 0 ;;
    *) die "unknown option '$1' (see --help)" ;;
  esac
  shift
done
check_settings
[[ $worker =~ ^([0-9]+|all)$ ]] || die "--worker: expected a number or 'all', got '$worker'"
[[ $lines =~ ^[0-9]+$ ]] || die "--lines: expected a number, got '$lines'"

if [[ ! $slice =~ ^[0-9]+$ ]] || ((slice >= SLICES)); then die "--slice: expected 0 to $((SLICES - 1)), got '$slice'"; fi

[[ $worker != all ]] || slice=all
command="tail -n $lines"
((follow)) && command+=' -F'
command+=" $REMOTE_JOB/log"
# Lines of different workers come in any order; -u, so that none waits in a buffer.
[[ $worker != all && $follow == 1 ]] || command+=" | sed -u \"s/^/\$(hostname): /\""
build_on_workers "$worker" "$command" "$slice"
execute "${COMMAND[@]}"
