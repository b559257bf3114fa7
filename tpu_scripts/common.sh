#!/usr/bin/env bash
# Shared by the scripts of this folder; sourced, not run.

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

# build_on_workers WORKER SCRIPT: runs a shell script on worker N or on all. SSH_FLAGS: extra gcloud flags.
build_on_workers() {
  local flags=()
  read -r -a flags <<<"${SSH_FLAGS:-}"
  build_command tpu-vm ssh "$TPU_NAME" "--worker=$1" ${flags[@]+"${flags[@]}"} "--command=$2"
}
