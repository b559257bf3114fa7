#!/usr/bin/env bash
# Create a TPU VM or pod.
#
#   export TPU_NAME=my-pod ZONE=us-east5-b PROJECT=my-project
#   tpu_scripts/create.sh --accelerator v6e-16 [--queued] [--spot]
#
# Options
#   --accelerator TYPE   accelerator type, e.g. v5litepod-16, v5p-8, v6e-16 (or ACCELERATOR_TYPE)
#   --runtime VERSION    runtime version (or RUNTIME_VERSION); default: the one of the generation
#   --spot               spot capacity: cheaper, can be taken away at any time
#   --queued             a queued resource: waits for capacity instead of failing
#   --valid-until D      with --queued: give up after this long, e.g. 6h
#   -h, --help           this text
# Environment
#   TPU_NAME ZONE PROJECT   required
#   DRY_RUN=1               print the commands instead of running them
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

accelerator=${ACCELERATOR_TYPE:-}
runtime=${RUNTIME_VERSION:-}
spot=0 queued=0 valid_until=
while (($#)); do
  case $1 in
    --accelerator) accelerator=$(option_value "$1" $# "${2-}"); shift ;;
    --runtime) runtime=$(option_value "$1" $# "${2-}"); shift ;;
    --valid-until) valid_until=$(option_value "$1" $# "${2-}"); shift ;;
    --spot) spot=1 ;;
    --queued) queued=1 ;;
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

flags=("--accelerator-type=$accelerator")
((spot)) && flags+=(--spot)
if ((queued)); then
  [[ -n $valid_until ]] && flags+=("--valid-until-duration=$valid_until")
  build_command queued-resources create "$TPU_NAME" "--node-id=$TPU_NAME" "${flags[@]}" "--runtime-version=$runtime"
else
  build_command tpu-vm create "$TPU_NAME" "${flags[@]}" "--version=$runtime"
fi
execute "${COMMAND[@]}"
((queued)) && note "queued; 'tpu_scripts/status.sh --queued' says when it is ACTIVE"
exit 0
