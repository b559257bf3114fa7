#!/usr/bin/env bash
# Start the same command on every worker, detached. It goes on when you log out.
#
#   tpu_scripts/run.sh [--env NAME=VALUE]... -- jaxpref train experiments/quickstart.py workdir=/mnt/shared/run
#
# Runs in the checkout that setup.sh made, in its virtual environment. Refuses while an earlier command
# is still running on any worker. Each worker writes ~/jaxpref-job/log; read it with logs.sh.
#
# Options
#   --env NAME=VALUE   set a variable on the workers; may be repeated
#   --stop             stop the command that is running (SIGTERM: jaxpref saves a checkpoint first)
#   -h, --help         this text
# Environment
#   TPU_NAME ZONE PROJECT   required
#   SSH_FLAGS               extra flags of gcloud ssh, e.g. --internal-ip
#   RETRIES, RETRY_PAUSE    attempts (4) and seconds between them (10, growing)
#   DRY_RUN=1               print the commands instead of running them
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

variables=()
stop=0
while (($#)); do
  case $1 in
    --env)
      variables+=("$(option_value "$1" $# "${2-}")")
      [[ ${variables[-1]} =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || die "--env: expected NAME=VALUE, got '${variables[-1]}'"
      shift
      ;;
    --stop) stop=1 ;;
    -h | --help) show_help; exit 0 ;;
    --) shift; break ;;
    -*) die "unknown option '$1' (see --help); the command goes after --" ;;
    *) break ;;
  esac
  shift
done
check_settings

running="test -f $REMOTE_JOB/pid && ! test -f $REMOTE_JOB/status && kill -0 -- -\$(cat $REMOTE_JOB/pid) 2>/dev/null"
if ((stop)); then
  (($# == 0)) || die "--stop takes no command"
  build_on_workers all "if $running; then kill -TERM -- -\$(cat $REMOTE_JOB/pid) && echo \"\$(hostname): stopping\"; \
else echo \"\$(hostname): nothing to stop\"; fi"
  execute_retrying "${COMMAND[@]}"
  exit 0
fi
(($# > 0)) || die "no command; for example: run.sh -- jaxpref train experiments/quickstart.py workdir=/mnt/shared/run"

# First ask everyone, then start everyone: half a pod that starts would wait for the other half.
build_on_workers all "if $running; then echo \"BUSY \$(hostname): \$(head -c 500 $REMOTE_JOB/command)\"; fi"
if dry_run; then
  execute "${COMMAND[@]}"
else
  if ! answer=$(execute_retrying "${COMMAND[@]}"); then
    die "could not ask the workers whether they are busy; nothing was started"
  fi
  if [[ $answer == *BUSY* ]]; then
    printf '%s\n' "$answer" | grep BUSY >&2
    die "a command is still running; wait for it or stop it with 'tpu_scripts/run.sh --stop'"
  fi
fi

job="cd \"\$HOME/$REMOTE_CODE\"
export PATH=\"\$HOME/$REMOTE_VENV/bin:\$PATH\" PYTHONUNBUFFERED=1 JAXPREF_DISTRIBUTED=1
"
for variable in ${variables[@]+"${variables[@]}"}; do
  job+="export ${variable%%=*}=$(quote "${variable#*=}")"$'\n'
done
job+="exec $(quote_all "$@")"$'\n'

# The wrapper outlives --stop's SIGTERM so that the command's own exit status is kept.
# The id makes a retry harmless on workers where the first attempt got through.
id=${RUN_ID:-$(date -u +%Y%m%dT%H%M%SZ)-$$}
[[ $id =~ ^[A-Za-z0-9-]+$ ]] || die "RUN_ID: expected letters, digits and hyphens, got '$id'"
worker_script="set -eu
umask 077
mkdir -p $REMOTE_JOB/old
cd $REMOTE_JOB
if test \"\$(cat id 2>/dev/null)\" = $id; then echo \"\$(hostname): already started\"; exit 0; fi
test ! -f log || mv log old/\$(cat id 2>/dev/null || echo unknown).log
rm -f status
printf '%s\n' $(quote "$(quote_all "$@")") > command
printf '%s' $(quote "$job") > job.sh
setsid nohup bash -c 'trap : TERM; bash job.sh; echo \$? > status' > log 2>&1 < /dev/null &
echo \$! > pid
echo $id > id
echo \"\$(hostname): started\""
build_on_workers all "$worker_script"
if ! execute_retrying "${COMMAND[@]}"; then
  die "some workers did not start; 'tpu_scripts/run.sh --stop', then try again"
fi
if ! dry_run; then note "running; 'tpu_scripts/logs.sh' shows worker 0"; fi
