#!/usr/bin/env bash
# Start the same command on every worker of every slice, detached, or on none. It goes on when you log out.
#
#   tpu_scripts/run.sh [--env NAME=VALUE]... -- jaxpref train experiments/quickstart.py workdir=/mnt/shared/run
#
# Runs in the checkout that setup.sh made, in its virtual environment. Refuses while an earlier command is
# still running on any worker, and where fewer workers answer than the pod has: what did start is stopped then.
# Each worker writes ~/jaxpref-job/log; read it with logs.sh.
#
# Options
#   --env NAME=VALUE   set a variable on the workers; may be repeated
#   --max-hours H      every worker sends its command SIGTERM after H hours (jaxpref saves a checkpoint) and
#                      SIGKILL ten minutes later. The pod stays, and costs, until delete.sh; see keep.sh
#   --workers N        how many the pod has; default: what the API says
#   --stop             stop the command that is running (SIGTERM: jaxpref saves a checkpoint first)
#   -h, --help         this text
# Environment
#   TPU_NAME ZONE PROJECT   required; SLICES where there are several
#   SSH_FLAGS               extra flags of gcloud ssh, e.g. --internal-ip
#   RETRIES, RETRY_PAUSE    attempts (4) and seconds between them (10, growing)
#   DRY_RUN=1               print the commands instead of running them
# The command gets JAXPREF_DISTRIBUTED=1 and JAXPREF_EXPECTED_PROCESSES, the number of workers.
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

variables=()
stop=0 max_hours='' workers=''
while (($#)); do
  case $1 in
    --env)
      variables+=("$(option_value "$1" $# "${2-}")")
      [[ ${variables[-1]} =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || die "--env: expected NAME=VALUE, got '${variables[-1]}'"
      shift
      ;;
    --max-hours) max_hours=$(option_value "$1" $# "${2-}"); shift ;;
    --workers) workers=$(option_value "$1" $# "${2-}"); shift ;;
    --stop) stop=1 ;;
    -h | --help) show_help; exit 0 ;;
    --) shift; break ;;
    -*) die "unknown option '$1' (see --help); the command goes after --" ;;
    *) break ;;
  esac
  shift
done
check_settings

if ((stop)); then
  (($# == 0)) || die "--stop takes no command"
  build_on_workers all "$JOB_STATE
if test \$state = running; then kill -TERM -- -\$(cat pid) && echo \"\$(hostname): stopping\"; \
else echo \"\$(hostname): nothing to stop\"; fi"
  execute_retrying "${COMMAND[@]}"
  exit 0
fi
(($# > 0)) || die "no command; for example: run.sh -- jaxpref train experiments/quickstart.py workdir=/mnt/shared/run"
[[ $workers =~ ^([1-9][0-9]*)?$ ]] || die "--workers: expected how many the pod has, got '$workers'"
limit=''
if [[ -n $max_hours ]]; then
  seconds=$(hours_to_seconds --max-hours "$max_hours")
  # --foreground: in one process group with the command, so that --stop reaches both.
  limit="timeout --foreground --signal=TERM --kill-after=600 $seconds "
fi
# The id makes a retry harmless on workers where the first attempt got through.
id=${RUN_ID:-$(date -u +%Y%m%dT%H%M%SZ)-$$}
[[ $id =~ ^[A-Za-z0-9-]+$ ]] || die "RUN_ID: expected letters, digits and hyphens, got '$id'"

if [[ -z $workers ]] && dry_run; then
  while read -r node; do
    build_describe "$node"
    execute "${COMMAND[@]}"
  done < <(node_names)
  workers=WORKERS
  note "WORKERS stands for the number that these give; --workers N fills it in"
elif [[ -z $workers ]]; then
  workers=$(count_workers) || die "the pod is not ready; nothing was started"
fi

job="cd \"\$HOME/$REMOTE_CODE\"
export PATH=\"\$HOME/$REMOTE_VENV/bin:\$PATH\" PYTHONUNBUFFERED=1
export JAXPREF_DISTRIBUTED=1 JAXPREF_EXPECTED_PROCESSES=$workers
"
for variable in ${variables[@]+"${variables[@]}"}; do
  job+="export ${variable%%=*}=$(quote "${variable#*=}")"$'\n'
done
job+="exec $(quote_all "$@")"$'\n'

ask_script="if test \"\$(cat $REMOTE_JOB/id 2>/dev/null)\" = $id; then echo \"\$(hostname): ready\"; exit 0; fi
$JOB_STATE
if test \"\$state\" = running; then echo \"\$(hostname): busy with \$(head -c 500 command)\"
else echo \"\$(hostname): ready\"; fi"
# The wrapper outlives --stop's SIGTERM so that the command's own exit status is kept, and that it came.
start_script="set -eu
umask 077
mkdir -p $REMOTE_JOB/old
cd $REMOTE_JOB
if test \"\$(cat id 2>/dev/null)\" = $id; then echo \"\$(hostname): started already\"; exit 0; fi
test ! -f log || mv log old/\$(cat id 2>/dev/null || echo unknown).log
rm -f status terminated
printf '%s\n' $(quote "$(quote_all "$@")") > command
printf '%s' $(quote "$job") > job.sh
setsid nohup bash -c 'trap \": > terminated\" TERM; ${limit}bash job.sh; echo \$? > status' > log 2>&1 < /dev/null &
echo \$! > pid
echo $id > id
echo \"\$(hostname): started\""
undo_script="cd $REMOTE_JOB && test \"\$(cat id)\" = $id && kill -KILL -- -\$(cat pid) && echo \"\$(hostname): undone\""

if dry_run; then
  for script in "$ask_script" "$start_script"; do
    build_on_workers all "$script"
    execute "${COMMAND[@]}"
  done
  exit 0
fi

# First ask everyone, then start everyone: half a pod that starts would wait for the other half.
ask_workers "$ask_script" || die "could not ask the workers whether they are busy; nothing was started"
if [[ -n $(hosts_that busy) ]]; then
  grep ': busy with ' <<<"$ANSWER" >&2
  die "a command is still running; wait for it or stop it with 'tpu_scripts/run.sh --stop'"
fi
ready=$(hosts_that ready)
(($(count_lines "$ready") == workers)) ||
  die "$(count_lines "$ready") of $workers workers answered; nothing was started. 'tpu_scripts/status.sh' shows the others"

ask_workers "$start_script" || note "some workers reported an error"
printf '%s\n' "$ANSWER"
started=$(hosts_that started)
count=$(count_lines "$started")
if ((count != workers)); then
  absent=$(comm -23 <(printf '%s\n' "$ready") <(printf '%s\n' "$started") | paste -s -d ' ' -)
  ((count == 0)) || ask_workers "$undo_script" || true
  undone=$(count_lines "$(hosts_that undone)")
  ((count == undone)) || note "only $undone of the $count were stopped: run.sh --stop"
  die "started on $count of $workers workers; not on: $absent. A command runs on all or on none, so those that did start were stopped; try again"
fi
note "running on $count workers; 'tpu_scripts/logs.sh --worker all' shows them"
