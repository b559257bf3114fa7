#!/usr/bin/env bash
# Shared by the scripts of this folder; sourced, not run.

# Slices of the pod (create.sh --slices); the scripts act on all of them.
export SLICES=${SLICES:-1}

# Where things live on every worker, relative to its home directory.
readonly REMOTE_CODE=jaxpref-code REMOTE_VENV=jaxpref-venv REMOTE_JOB=jaxpref-job
export REMOTE_CODE REMOTE_VENV REMOTE_JOB

die() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

note() {
  printf '%s\n' "$*" >&2
}

# The comment block under the first line of a script is its help.
show_help() {
  awk 'NR > 1 && /^#/ { sub(/^# ?/, ""); print; next } NR > 1 { exit }' "$0"
}

# The value that an option needs; $1 option, $2 how many words are left, $3 the value.
option_value() {
  (($2 >= 2)) || die "$1 needs a value (see --help)"
  printf '%s' "$3"
}

# Single quotes work in every POSIX shell, and keep newlines, unlike printf %q's $'...'.
quote() {
  printf "'%s'" "${1//\'/\'\\\'\'}"
}

quote_if_needed() {
  if [[ $1 =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]]; then printf '%s' "$1"; else quote "$1"; fi
}

quote_all() {
  local word separator=''
  for word in "$@"; do
    printf '%s' "$separator"
    quote_if_needed "$word"
    separator=' '
  done
}

dry_run() {
  [[ ${DRY_RUN:-0} != 0 && -n ${DRY_RUN:-} ]]
}

# Runs a command, or prints it ready to paste when DRY_RUN=1.
execute() {
  if dry_run; then
    quote_all "$@"
    printf '\n'
  else
    "$@"
  fi
}

# As `execute`, tried again where a pod's ssh is flaky. Only for commands that may be repeated.
execute_retrying() {
  local attempt attempts=${RETRIES:-4} pause=${RETRY_PAUSE:-10}
  for ((attempt = 1; ; attempt++)); do
    if execute "$@"; then return 0; fi
    ((attempt < attempts)) || return 1
    note "attempt $attempt of $attempts failed; again in $((pause * attempt)) s"
    sleep "$((pause * attempt))"
  done
}

check_settings() {
  local name missing=()
  for name in TPU_NAME ZONE PROJECT; do
    [[ -n ${!name:-} ]] || missing+=("$name")
  done
  if ((${#missing[@]})); then
    die "${missing[*]} not set; for example: export TPU_NAME=my-pod ZONE=us-east5-a PROJECT=my-project"
  fi
  [[ $TPU_NAME =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] ||
    die "TPU_NAME: expected lower-case letters, digits and hyphens, got '$TPU_NAME'"
  [[ $SLICES =~ ^[1-9][0-9]{0,3}$ ]] || die "SLICES: expected how many slices the pod has, got '$SLICES'"
  if ! dry_run && ! command -v gcloud >/dev/null; then
    die "gcloud is not on PATH; install the Google Cloud CLI and run 'gcloud auth login', or set DRY_RUN=1"
  fi
}

# build_command KIND VERB ARGS...: fills the array COMMAND with a gcloud call that names its zone and
# project and never stops to ask. An array, so that no word is ever split.
build_command() {
  # shellcheck disable=SC2034  # read by the scripts that source this file
  COMMAND=(gcloud --quiet compute tpus "$@" "--zone=$ZONE" "--project=$PROJECT")
}

# node_names: the names by which the API knows the slices of the pod.
node_names() {
  local slice
  if ((SLICES == 1)); then
    printf '%s\n' "$TPU_NAME"
  else
    for ((slice = 0; slice < SLICES; slice++)); do printf '%s-%s\n' "$TPU_NAME" "$slice"; done
  fi
}

build_request_list() {
  build_command queued-resources list "--filter=name:$TPU_NAME" '--format=value(name.basename(),state.state)'
}

# The state of the pod's queued request; nothing where there is none. Fails where it could not be asked for.
request_state() {
  local answer
  build_request_list
  answer=$("${COMMAND[@]}") || return 1
  awk -v name="$TPU_NAME" '$1 == name { print $2 }' <<<"$answer"
}

# A worker on several networks has an endpoint on each.
build_describe() {
  build_command tpu-vm describe "$1" '--format=value(state,networkEndpoints.len(),networkConfigs.len())'
}

readonly TAKEN=3

# workers_of_node NAME: how many one slice has. Fails, with a note, where it is not READY; with status TAKEN
# where it has been taken away.
workers_of_node() {
  local answer state endpoints networks
  build_describe "$1"
  answer=$("${COMMAND[@]}") || {
    note "could not ask for '$1'; a pod of several slices needs SLICES (now $SLICES)"
    return 1
  }
  read -r state endpoints networks <<<"$answer"
  [[ ${networks:-0} =~ ^[1-9][0-9]*$ ]] || networks=1
  if [[ $state != READY || ! ${endpoints:-0} =~ ^[1-9][0-9]*$ ]]; then
    note "'$1' is ${state:-in no state}"
    [[ $state != PREEMPTED && $state != TERMINATED ]] || return "$TAKEN"
    return 1
  fi
  echo $((endpoints / networks))
}

# count_workers: how many the pod has, over all slices. Fails as workers_of_node does.
count_workers() {
  local node workers total=0
  while read -r node; do
    workers=$(workers_of_node "$node") || return $?
    total=$((total + workers))
  done < <(node_names)
  echo "$total"
}

# build_on_workers WORKER SCRIPT [SLICE]: runs a shell script on worker N or on all, of one slice or of all.
# SSH_FLAGS: extra gcloud flags.
build_on_workers() {
  local flags=()
  read -r -a flags <<<"${SSH_FLAGS:-}"
  if ((SLICES == 1)); then
    build_command tpu-vm ssh "$TPU_NAME" "--worker=$1" ${flags[@]+"${flags[@]}"} "--command=$2"
  else
    build_command queued-resources ssh "$TPU_NAME" "--node=${3:-all}" "--worker=$1" \
      ${flags[@]+"${flags[@]}"} "--command=$2"
  fi
}

# ask_workers SCRIPT: runs it on all workers; what they print, over all attempts, goes to ANSWER.
ask_workers() {
  build_on_workers all "$1"
  ANSWER=$(execute_retrying "${COMMAND[@]}")
}

# hosts_that WORD: the workers of ANSWER that said it, each once however often it was asked. gcloud ends with
# status 0 when it could not prepare one of several slices, so only what the workers say counts.
hosts_that() {
  awk -v word="$1" '{ at = index($0, ": ") } at && index(substr($0, at + 2), word) == 1 { print substr($0, 1, at - 1) }' \
    <<<"$ANSWER" | sort -u
}

count_lines() {
  if [[ -z $1 ]]; then echo 0; else wc -l <<<"$1" | tr -d ' '; fi
}

# confirm QUESTION REFUSAL: goes on after a yes on the terminal, or where YES=1 has said so.
confirm() {
  local answer
  if dry_run || [[ ${YES:-0} =~ ^(1|y|yes|true)$ ]]; then return; fi
  [[ -t 0 ]] || die "$2: there is no terminal to ask on; -y or YES=1 says yes"
  printf '%s [y/N] ' "$1" >&2
  read -r answer || answer=
  [[ $answer == [yY] || $answer == [yY][eE][sS] ]] || die "$2"
}

# hours_to_seconds OPTION HOURS
hours_to_seconds() {
  [[ $2 =~ ^[0-9]+(\.[0-9]+)?$ && $2 =~ [1-9] ]] || die "$1: expected hours, such as 12 or 0.5, got '$2'"
  awk -v hours="$2" 'BEGIN { seconds = int(hours * 3600 + 0.5); print (seconds < 1 ? 1 : seconds) }'
}

# What a worker runs to say how its command is: sets $state to none, running, killed, "exited N", or "stopped N"
# where SIGTERM came before it ended, whatever N is.
# shellcheck disable=SC2034  # read by the scripts that source this file
readonly JOB_STATE="if ! cd $REMOTE_JOB 2>/dev/null || ! test -f pid; then state=none
elif test -f status && test -f terminated; then state=\"stopped \$(cat status)\"
elif test -f status; then state=\"exited \$(cat status)\"
elif kill -0 -- -\$(cat pid) 2>/dev/null; then state=running
else state=killed; fi"
