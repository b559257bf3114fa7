#!/usr/bin/env bash
# Fetch the traces that a run with profile=FIRST:COUNT has written, from all workers or from the bucket.
#
#   tpu_scripts/run.sh -- jaxpref train FILE profile=100:3 workdir=WORKDIR
#   tpu_scripts/profile.sh WORKDIR [--into FOLDER]
#
# WORKDIR is what the run was given. They come to FOLDER/profile/STAGE-FIRST/process-N, one folder a process.
#
# Options
#   --into FOLDER   where to (default: the present folder)
#   --worker N      from this worker of the first slice only; enough where WORKDIR is one that all workers share
#   -h, --help      this text
# Environment
#   TPU_NAME ZONE PROJECT   required unless WORKDIR is of a bucket; SLICES where there are several
#   SSH_FLAGS               extra flags of gcloud scp, e.g. --internal-ip
#   DRY_RUN=1               print the commands instead of running them
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

workdir='' into=. worker=''
while (($#)); do
  case $1 in
    --into) into=$(option_value "$1" $# "${2-}"); shift ;;
    --worker) worker=$(option_value "$1" $# "${2-}"); shift ;;
    -h | --help) show_help; exit 0 ;;
    -*) die "unknown option '$1' (see --help)" ;;
    *) [[ -z $workdir ]] || die "expected one WORKDIR, got '$workdir' and '$1'"; workdir=${1%/} ;;
  esac
  shift
done
[[ $workdir == gs://* ]] || check_settings
[[ -n $workdir ]] || die "no WORKDIR; give the run's, e.g. profile.sh gs://bucket/run"
[[ $workdir =~ ^(gs:/)?[A-Za-z0-9_./-]+$ ]] || die "WORKDIR: expected a path of letters, digits and ._/-, got '$workdir'"
[[ $worker =~ ^[0-9]*$ ]] || die "--worker: expected a number, got '$worker'"
read -r -a flags <<<"${SSH_FLAGS:-}"

# fetch_from NODE WORKER
fetch_from() {
  build_command tpu-vm scp "$1:$remote/profile" "$into" "--worker=$2" --recurse ${flags[@]+"${flags[@]}"}
  execute_retrying "${COMMAND[@]}"
}

workers_of() {
  if [[ -n $worker ]]; then
    printf '%s\n' "$worker"
  elif dry_run; then
    note "and so for each worker of $1"
    echo 0
  else
    seq 0 "$(($(workers_of_node "$1") - 1))"
  fi
}

execute mkdir -p "$into"
fetched=0 asked=0
if [[ $workdir == gs://* ]]; then
  execute gcloud storage rsync --recursive "$workdir/profile" "$into/profile" ||
    die "nothing came from $workdir/profile; was the run given profile=FIRST:COUNT, and did it come to that step?"
else
  remote=$workdir
  [[ $workdir == /* ]] || remote=$REMOTE_CODE/$workdir # where run.sh runs its commands
  while read -r node; do
    while read -r number; do
      asked=$((asked + 1))
      fetch_from "$node" "$number" || { note "nothing from worker $number of $node"; continue; }
      fetched=$((fetched + 1))
    done < <(workers_of "$node")
    [[ -z $worker ]] || break
  done < <(node_names)
  ((asked && fetched == asked)) ||
    die "$fetched of $asked workers had traces in $remote/profile; was the run given profile=FIRST:COUNT, and did it come to that step?"
fi
dry_run || note "to look: pip install xprof (in its own environment); xprof --logdir $into/profile/STAGE-FIRST/process-0"
