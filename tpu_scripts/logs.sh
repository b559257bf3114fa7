#!/usr/bin/env bash
# Follow the log of one worker, or print the end of everyone's.
#
#   tpu_scripts/logs.sh [--worker N] [--lines N] [--no-follow]
#
# Options
#   --worker N     which worker, default 0; 'all' prints without following
#   --lines N      how many lines to begin with, default 100
#   --no-follow    print and return
#   -h, --help     this text
# Environment
#   TPU_NAME ZONE PROJECT   required
#   SSH_FLAGS               extra flags of gcloud ssh, e.g. --internal-ip
#   DRY_RUN=1               print the commands instead of running them
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

worker=0 lines=100 follow=1
while (($#)); do
  case $1 in
    --worker) worker=$(option_value "$1" $# "${2-}"); shift ;;
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

if [[ $worker == all || $follow == 0 ]]; then
  build_on_workers "$worker" "tail -n $lines $REMOTE_JOB/log | sed \"s/^/\$(hostname): /\""
else
  build_on_workers "$worker" "tail -n $lines -F $REMOTE_JOB/log"
fi
execute "${COMMAND[@]}"
