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
#   --slices N               with --queued: N slices of this type in one job (multislice), named NAME-0 and so on;
#                            then also export SLICES=N for the other scripts (or SLICES)
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
network=${NETWORK:-} subnetwork=${SUBNETWORK:-} account=${SERVICE_ACCOUNT:-}
spot=0 reserved=0 queued=0 internal=0 valid_until=
disks=()
while (($#)); do
  case $1 in
    --accelerator) accelerator=$(option_value "$1" $# "${2-}"); shift ;;
    --runtime) runtime=$(option_value "$1" $# "${2-}"); shift ;;
    --slices) SLICES=$(option_value "$1" $# "${2-}"); shift ;;
    --valid-until) valid_until=$(option_value "$1" $# "${2-}"); shift ;;
    --network) network=$(option_value "$1" $# "${2-}"); shift ;;
    --subnetwork) subnetwork=$(option_value "$1" $# "${2-}"); shift ;;
    --service-account) account=$(option_value "$1" $# "${2-}"); shift ;;
    --data-disk) disks+=("$(option_value "$1" $# "${2-}")"); shift ;;
    --spot) spot=1 ;;
    --reserved) reserved=1 ;;
    --queued) queued=1 ;;
    --internal-ips) internal=1 ;;
    -y | --yes) YES=1 ;;
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
((SLICES == 1 || queued)) || die "--slices only goes with --queued"
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
kind=$accelerator
((SLICES == 1)) || kind="$SLICES slices of $accelerator"
summary="$kind '$TPU_NAME' in $ZONE of project $PROJECT, $capacity, runtime $runtime"
((queued)) && summary+=", when there is capacity${valid_until:+ within $valid_until}"
if dry_run; then
  note "would create $summary"
else
  note "$summary"
  note "It is billed by the chip-hour until you delete it; prices: https://cloud.google.com/tpu/pricing"
fi
confirm 'Create it?' 'nothing was created'

# A request that has ended keeps its name, and creating one of the same name fails.
remove_ended_request() {
  local state
  if dry_run; then
    build_request_list
    execute "${COMMAND[@]}"
    return
  fi
  state=$(request_state) || die "could not ask for the queued requests of $ZONE; nothing was created"
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
  nodes=("--node-id=$TPU_NAME")
  ((SLICES == 1)) || nodes=("--node-count=$SLICES" "--node-prefix=$TPU_NAME")
  build_command queued-resources create "$TPU_NAME" "${nodes[@]}" "${flags[@]}" "--runtime-version=$runtime"
else
  build_command tpu-vm create "$TPU_NAME" "${flags[@]}" "--version=$runtime"
fi
execute "${COMMAND[@]}"
if ((SLICES > 1)); then note "for the other scripts: export SLICES=$SLICES"; fi
if ((queued)) && ! dry_run; then note "queued; 'tpu_scripts/status.sh --queued' says when it is ACTIVE"; fi
