#!/usr/bin/env bash
# Keep a command going on capacity that can be taken away: ask for a pod, wait until it is there, set it up,
# start the command, watch. When the pod is taken away, do all of it again, until the command exits 0.
#
#   tpu_scripts/keep.sh --accelerator v6e-16 --max-hours 48 -- jaxpref train FILE workdir=gs://bucket/run
#
# Asks once, before anything is created. A pod of this name that is there already is taken over, and so is this
# very command if it runs there: after Ctrl-C or a crash of this machine, give the same line again. The pod is
# deleted at the end, whatever the end is; keep nothing on its disks (a workdir in a bucket is what goes on).
# SIGTERM is no failure: a command that it ended is started again, so stop this script before run.sh --stop.
#
# Options
#   --accelerator, --runtime, --slices, --valid-until, --network, --subnetwork, --internal-ips,
#   --service-account, --data-disk, --reserved   as for create.sh; --on-demand: neither spot nor reserved
#   --extras, --python   as for setup.sh
#   --env NAME=VALUE     as for run.sh; may be repeated
#   --max-hours H        when pods have been there for H hours in all, stop the command (jaxpref saves), delete
#                        the pod and end with 124. Waiting for capacity does not count: it costs nothing
#   --max-failures N     end when the command has failed N times with the same status (3). A failure after more
#                        than an hour of running begins the count anew
#   --poll S             seconds between looks (60)
#   --leave              leave the pod at the end, except when the hours are over
#   -y, --yes            do not ask (or YES=1); needed where there is no terminal
#   -h, --help           this text
# Environment
#   TPU_NAME ZONE PROJECT   required
#   SSH_FLAGS               extra flags of gcloud ssh and scp, e.g. --internal-ip
#   RETRIES, RETRY_PAUSE    attempts (4) and seconds between them (10, growing) of each command
#   DRY_RUN=1               print the commands of one round instead of running them
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=tpu_scripts/common.sh
source "$here/common.sh"

creation=(--queued) installation=() start=() spot=--spot
max_hours='' max_failures=3 poll=60 leave=0
while (($#)); do
  case $1 in
    --accelerator | --runtime | --valid-until | --network | --subnetwork | --service-account | --data-disk)
      creation+=("$1" "$(option_value "$1" $# "${2-}")"); shift ;;
    --slices) SLICES=$(option_value "$1" $# "${2-}"); shift ;;
    --internal-ips) creation+=("$1") ;;
    --reserved) spot=--reserved ;;
    --on-demand) spot='' ;;
    --extras | --python) installation+=("$1" "$(option_value "$1" $# "${2-}")"); shift ;;
    --env) start+=("$1" "$(option_value "$1" $# "${2-}")"); shift ;;
    --max-hours) max_hours=$(option_value "$1" $# "${2-}"); shift ;;
    --max-failures) max_failures=$(option_value "$1" $# "${2-}"); shift ;;
    --poll) poll=$(option_value "$1" $# "${2-}"); shift ;;
    --leave) leave=1 ;;
    -y | --yes) YES=1 ;;
    -h | --help) show_help; exit 0 ;;
    --) shift; break ;;
    -*) die "unknown option '$1' (see --help); the command goes after --" ;;
    *) break ;;
  esac
  shift
done
check_settings
(($# > 0)) || die "no command; for example: keep.sh --accelerator v6e-16 -- jaxpref train FILE workdir=gs://bucket/run"
[[ " ${creation[*]}" == *' --accelerator '* ]] || die "no accelerator type; give --accelerator, e.g. v6e-16"
[[ $max_failures =~ ^[1-9][0-9]*$ ]] || die "--max-failures: expected a number, got '$max_failures'"
[[ $poll =~ ^[0-9]+(\.[0-9]+)?$ ]] || die "--poll: expected seconds, got '$poll'"
max_seconds=''
[[ -z $max_hours ]] || max_seconds=$(hours_to_seconds --max-hours "$max_hours")
[[ -z $spot ]] || creation+=("$spot")
command=("$@")
checksum=$(printf '%s\n' "$(quote_all "$@")" | cksum | cut -d ' ' -f 1)
job_script="$JOB_STATE
sum=none
test \"\$state\" = none || sum=\$(cksum < command | cut -d ' ' -f 1)
echo \"\$(hostname): job \$sum \$state\""

readonly STUCK_POLLS=10 # looks in a row at a pod that does not answer, or at a job half of which has ended
readonly SETTLE_POLLS=3 # looks in a row at a job that has ended: a pod that is taken away takes the job first
paid=0 since=''         # seconds of pods that are gone; when the present one was first seen
state='' stuck=0 ended=0 started_at=0 asked=0
declare -A failures=()

create() { YES=1 "$here/create.sh" "${creation[@]}"; }
setup() { "$here/setup.sh" ${installation[@]+"${installation[@]}"}; }
run() {
  local hours=()
  [[ -z $max_seconds ]] || hours=(--max-hours "$(awk -v s="$(seconds_left)" 'BEGIN { printf "%.4f", s / 3600 }')")
  "$here/run.sh" ${hours[@]+"${hours[@]}"} ${start[@]+"${start[@]}"} -- "${command[@]}"
}
delete() { "$here/delete.sh" --yes --queued; }

seconds_used() { echo $((paid + (${since:+$(date +%s) - since} + 0))); }
seconds_left() {
  local left=$((max_seconds - $(seconds_used)))
  echo $((left > 0 ? left : 1))
}
describe_hours() { awk -v s="$(seconds_used)" 'BEGIN { printf "%.1f hours of '"'$TPU_NAME'"'", s / 3600 }'; }

# The pod is gone, so it costs no more, and there is nothing of it to be looked at.
pod_is_gone() {
  paid=$(seconds_used)
  since='' stuck=0 ended=0
}

replace() {
  note "$1: deleting the pod and asking for another one"
  delete || note "it could not be deleted; trying again"
}

# Ends this script. $1: its status; $2: why.
finish() {
  trap - INT TERM
  note "$2"
  if [[ -z $since ]]; then
    ((!asked)) || delete || note "the request could not be deleted: tpu_scripts/delete.sh --queued"
  elif ((leave)) && [[ $1 != 124 ]]; then
    note "the pod '$TPU_NAME' stays and costs until 'tpu_scripts/delete.sh --queued'"
  else
    [[ $1 == 0 ]] || "$here/logs.sh" --worker all --lines 20 --no-follow || note "the logs could not be read"
    delete || { note "'$TPU_NAME' could NOT be deleted and still costs: tpu_scripts/delete.sh --queued"; exit 1; }
  fi
  note "$(describe_hours) in all"
  exit "$1"
}

interrupted() {
  trap - INT TERM
  note ""
  note "keep.sh has stopped watching; nothing was stopped or deleted. The same line takes over again."
  if [[ -n $since ]]; then
    note "'$TPU_NAME' is there and costs until 'tpu_scripts/delete.sh --queued'; its command goes on."
  elif ((asked)); then
    note "the request '$TPU_NAME' waits, and costs once it is ACTIVE: 'tpu_scripts/delete.sh --queued' ends it."
  fi
  exit 130
}

# A failure of its own, not of the capacity. $1: what it was, by which it is counted; $2: how it is said.
count_failure() {
  local count
  if ((started_at && $(date +%s) - started_at > 3600)); then failures=(); fi
  started_at=0
  count=$((${failures[$1]:-0} + 1))
  failures[$1]=$count
  note "$2 ($count of $max_failures)"
  ((count < max_failures)) || finish 1 "giving up: $2, $max_failures times"
}

still_active() { [[ $(request_state || echo ACTIVE) == ACTIVE ]]; }

start_job() {
  local step
  for step in "$@"; do
    if ! "$step"; then
      still_active || return 0
      count_failure "$step" "$step.sh failed"
      replace "$step.sh failed"
      return 0
    fi
  done
  started_at=$(date +%s) stuck=0 ended=0
  unset 'failures[setup]' 'failures[run]'
}

look_again() {
  stuck=$((stuck + 1))
  note "$1 ($stuck of $STUCK_POLLS)"
  ((stuck < STUCK_POLLS)) || replace "$1"
}

# One look at the command on all workers of a pod that is ACTIVE.
look_at_job() {
  local states workers answers status=0
  workers=$(count_workers) || status=$?
  case $status in
    0) ;;
    "$TAKEN") replace "it was taken away"; return ;;
    *) look_again "the pod is not ready"; return ;;
  esac
  ask_workers "$job_script" || { look_again "a worker does not answer"; return; }
  answers=$(count_lines "$(hosts_that job)")
  if ((answers != workers)); then look_again "$answers of $workers workers answer"; return; fi
  states=$(sed -n 's/^[^:]*: job //p' <<<"$ANSWER" | sort -u)
  case $states in
    "$checksum running") stuck=0 ended=0 ;;
    *running*)
      [[ $states == *"$checksum running"* ]] || die "another command runs on '$TPU_NAME': tpu_scripts/status.sh"
      look_again "the command has ended on some workers only"
      ;;
    "$checksum exited 0") finish 0 "the command has exited 0" ;;
    *"$checksum "*) job_ended "$(sed -n "s/^$checksum //p" <<<"$states" | paste -s -d , -)" ;;
    *) start_job setup run ;;
  esac
}

# $1: how, on the workers: words of JOB_STATE with commas between.
job_ended() {
  ended=$((ended + 1))
  note "the command has ended: $1"
  ((ended >= SETTLE_POLLS)) || return 0
  case $1 in
    *'exited 124'*) [[ -z $max_seconds ]] || end_of_hours ;;&
    *stopped*) note "SIGTERM ended it, and the pod is still there: starting it again" ;;
    *) count_failure "$1" "the command failed: $1" ;;
  esac
  start_job run
}

end_of_hours() {
  local look
  note "$max_hours hours are over: stopping the command and deleting the pod"
  "$here/run.sh" --stop || true
  for ((look = 0; look < STUCK_POLLS; look++)); do
    ask_workers "$job_script" || break
    [[ $ANSWER == *running* ]] || break
    sleep "$poll"
  done
  finish 124 "the $max_hours hours are over"
}

look() {
  local previous=$state
  if ! state=$(request_state); then
    state=$previous
    note "could not ask for the request; trying again"
    return
  fi
  [[ $state == "$previous" ]] || note "$(date -u +%H:%M:%SZ) the request is ${state:-not there}"
  case $state in
    '' | SUSPENDED | FAILED)
      pod_is_gone
      if [[ $state == FAILED ]] && ((asked)); then count_failure FAILED "the request FAILED"; fi
      if create; then asked=1; unset 'failures[create]'; else count_failure create "create.sh failed"; fi
      ;;
    SUSPENDING | DELETING) pod_is_gone ;;
    ACTIVE)
      unset 'failures[FAILED]'
      since=${since:-$(date +%s)}
      look_at_job
      ;;
  esac
  if [[ -n $max_seconds && -n $since ]] && (($(seconds_used) >= max_seconds)); then end_of_hours; fi
}

if dry_run; then
  build_request_list
  execute "${COMMAND[@]}"
  create
  setup
  run
  build_on_workers all "$job_script"
  execute "${COMMAND[@]}"
  delete
  exit 0
fi
note "keeps '${command[*]}' going on '$TPU_NAME' in $ZONE of project $PROJECT: creates pods again and again,"
limit='without a limit (--max-hours)'
[[ -z $max_hours ]] || limit="for at most $max_hours hours in all"
note "${creation[*]}; $limit; prices: https://cloud.google.com/tpu/pricing"
confirm 'Go on?' 'nothing was created'
trap interrupted INT TERM
while :; do
  look
  sleep "$poll"
done
