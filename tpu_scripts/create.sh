#!/usr/bin/env bash
# Create a TPU VM or pod. Says what it will be and asks, since it costs money from then on until delete.sh.
#
#   export TPU_NAME=my-pod ZONE=us-east5-b PROJECT=my-project
#   tpu_scripts/create.sh --accelerator v6e-16 [--queued] [--spot | --reserved]
#
# Options
#   --accelerator TYPE       accelerator type, e.g. v5litepod-16, v5p-8, v6e-16 (or ACCELERATOR_TYPE)
#   --runtime VERSION        runtime version (or RUNTIME_VERSION); default: the one of the generation
#   --spot                   spot capacity: cheaper, can be taken away at any time
#   --reserved               capacity of a reservation of your project
#   --queued                 a queued resource: waits for capacity instead of failing. A request of this name
#                            that has ended (SUSPENDED or FAILED) is deleted first, since its name stays taken
#   --valid-until D          with --queued: give up after this long, e.g. 6h
#   --network NAME           network (or NETWORK); default: the project's network called default
#   --subnetwork NAME        subnetwork (or SUBNETWORK)
#   --internal-ips           no external addresses; then also export SSH_FLAGS=--internal-ip
#   --service-account EMAIL  what the workers act as, e.g. towards buckets (or SERVICE_ACCOUNT)
#   --data-disk DISK[,MODE]  attach a disk that exists, given as projects/P/zones/Z/disks/NAME; MODE read-write
#                            (default) or read-only, which pods of several hosts need; may be repeated
#   -y, --yes                do not ask (or YES=1); needed where there is no terminal
#   -h, --help               this text
# Environment
#   TPU_NAME ZONE PROJECT    required
#   DRY_RUN=1                print the commands instead of running them
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

accelerator=${ACCELERATOR_TYPE:-} runtime=${RUNTIME_VERSION:-}
network=${NETWORK:-} subnetwork=${SUBNETWORK:-} account=${SERVICE_ACCOUNT:-} yes=${YES:-0}
spot=0 reserved=0 queued=0 internal=0 valid_until=
disks=()
while (($#)); do
  case $1 in
    --accelerator) accelerator=$(option_value "$1" $# "${2-}"); shift ;;
    --runtime) runtime=$(option_value "$1" $# "${2-}"); shift ;;
    --valid-until) valid_until=$(option_value "$1" $# "${2-}"); shift ;;
    --network) network=$(option_value "$1" $# "${2-}"); shift ;;
    --subnetwork) subnetwork=$(option_value "$1" $# "${2-}"); shift ;;
    --service-account) account=$(option_value "$1" $# "${2-}"); shift ;;
    --data-disk) disks+=("$(option_value "$1" $# "${2-}")"); shift ;;
    --spot) spot=1 ;;
    --reserved) reserved=1 ;;
    --queued) queued=1 ;;
    --internal-ips) internal=1 ;;
    -y | --yes) yes=1 ;;
    -h | --help) show_help; exit 0 ;;
    *) die "unknown option '$1' (see --help)" ;;
  esac
  shift
done
check_settings
[[ -n $accelerator ]] || die "no accelerator type; give --accelerator, e.g. v5litepod-16, v5p-8 or v6e-16"
if [[ -z $runtime ]]; then
  case $accelerator in
    v4-*) runtime=tpu-ubuntu2204-base ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    *) die "no default runtime version for '$accelerator'; give --runtime" ;;
  esac
fi
[[ -z $valid_until || $queued == 1 ]] || die "--valid-until only goes with --queued"
((spot + reserved < 2)) || die "--spot and --reserved exclude one another"

flags=("--accelerator-type=$accelerator")
((spot)) && flags+=(--spot)
((reserved)) && flags+=(--reserved)
[[ -z $network ]] || flags+=("--network=$network")
[[ -z $subnetwork ]] || flags+=("--subnetwork=$subnetwork")
((internal)) && flags+=(--internal-ips)
[[ -z $account ]] || flags+=("--service-account=$account")
for disk in ${disks[@]+"${disks[@]}"}; do
  source=${disk%%,*} mode=read-write
  [[ $disk != *,* ]] || mode=${disk#*,}
  [[ $source =~ ^projects/[^/]+/zones/[^/]+/disks/[^/]+$ ]] ||
    die "--data-disk: expected projects/P/zones/Z/disks/NAME, got '$source'"
  [[ $mode == read-write || $mode == read-only ]] || die "--data-disk: the mode is read-write or read-only, got '$mode'"
  flags+=("--data-disk=source=$source,mode=$mode")
done

capacity='on demand'
((spot)) && capacity=spot
((reserved)) && capacity=reserved
summary="$accelerator '$TPU_NAME' in $ZONE of project $PROJECT, $capacity, runtime $runtime"
((queued)) && summary+=", when there is capacity${valid_until:+ within $valid_until}"
if dry_run; then
  note "would create $summary"
else
  note "$summary"
  note "It is billed by the chip-hour until you delete it; prices: https://cloud.google.com/tpu/pricing"
  if [[ ! $yes =~ ^(1|y|yes|true)$ ]]; then
    [[ -t 0 ]] || die "nothing was created: there is no terminal to ask on; -y or YES=1 says yes"
    printf 'Create it? [y/N] ' >&2
    read -r answer || answer=
    [[ $answer == [yY] || $answer == [yY][eE][sS] ]] || die "nothing was created"
  fi
fi

# A request that has ended keeps its name, and creating one of the same name fails.
remove_ended_request() {
  local state
  build_command queued-resources list "--filter=name:$TPU_NAME" '--format=value(name.basename(),state.state)'
  if dry_run; then
    execute "${COMMAND[@]}"
    return
  fi
  state=$("${COMMAND[@]}" | awk -v name="$TPU_NAME" '$1 == name { print $2 }') ||
    die "could not ask for the queued requests of $ZONE; nothing was created"
  case $state in
    '') ;;
    SUSPENDED | FAILED)
      note "a request of this name is $state: deleting it"
      build_command queued-resources delete "$TPU_NAME" --force
      execute "${COMMAND[@]}" || die "the request could not be deleted; nothing was created"
      ;;
    *) die "there is a request '$TPU_NAME' already, and it is $state; see status.sh --queued, or delete.sh --queued" ;;
  esac
}

if ((queued)); then
  remove_ended_request
  [[ -n $valid_until ]] && flags+=("--valid-until-duration=$valid_until")
  build_command queued-resources create "$TPU_NAME" "--node-id=$TPU_NAME" "${flags[@]}" "--runtime-version=$runtime"
else
  build_command tpu-vm create "$TPU_NAME" "${flags[@]}" "--version=$runtime"
fi
execute "${COMMAND[@]}"
if ((queued)) && ! dry_run; then note "queued; 'tpu_scripts/status.sh --queued' says when it is ACTIVE"; fi
