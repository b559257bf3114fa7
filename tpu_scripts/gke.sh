#!/usr/bin/env bash
# Run a command on a TPU slice, or several, of a GKE cluster through xpk, which writes the JobSet.
#
#   tpu_scripts/gke.sh --cluster NAME --workload NAME --accelerator v6e-16 [--slices N] -- jaxpref train FILE \
#     workdir=gs://bucket/run
#
# The image is --base-image plus a copy of the present commit; every container installs it and runs the command
# in it (xpk builds and pushes the image, which needs docker here). Or give an --image that has jaxpref.
# xpk is a tool of its own: it takes older versions of packages that jaxpref needs, so it must be installed in
# another environment (for example: pipx install xpk). XPK names it where it is not on PATH.
#
# Options
#   --cluster NAME       the cluster (or CLUSTER); xpk cluster create makes one
#   --workload NAME      the name of the job: lower-case letters, digits and hyphens, at most 40
#   --accelerator TYPE   accelerator type, e.g. v5litepod-16, v5p-64, v6e-16 (or ACCELERATOR_TYPE)
#   --slices N           slices of this type (1)
#   --base-image IMAGE   image with Python to build upon (python:3.12)
#   --extras LIST        extras to install, default tpu; e.g. tpu,gguf
#   --image IMAGE        an image to run as it is instead
#   --env NAME=VALUE     set a variable; may be repeated
#   --spot | --on-demand | --reservation NAME   the capacity, on clusters that provision nodes by themselves
#   --max-restarts N     how often GKE starts the job again when it was taken away or failed by itself (20)
#   -h, --help           this text
# Environment
#   ZONE PROJECT         required (TPU_NAME is not used)
#   DRY_RUN=1            print the commands instead of running them
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=tpu_scripts/common.sh
source "$here/common.sh"

cluster=${CLUSTER:-} workload='' accelerator=${ACCELERATOR_TYPE:-} base=python:3.12 extras=tpu image='' restarts=20
flags=()
while (($#)); do
  case $1 in
    --cluster) cluster=$(option_value "$1" $# "${2-}"); shift ;;
    --workload) workload=$(option_value "$1" $# "${2-}"); shift ;;
    --accelerator) accelerator=$(option_value "$1" $# "${2-}"); shift ;;
    --slices) SLICES=$(option_value "$1" $# "${2-}"); shift ;;
    --base-image) base=$(option_value "$1" $# "${2-}"); shift ;;
    --extras) extras=$(option_value "$1" $# "${2-}"); shift ;;
    --image) image=$(option_value "$1" $# "${2-}"); shift ;;
    --env)
      flags+=("--env=$(option_value "$1" $# "${2-}")")
      [[ ${flags[-1]} =~ ^--env=[A-Za-z_][A-Za-z0-9_]*= ]] || die "--env: expected NAME=VALUE, got '${flags[-1]#--env=}'"
      shift
      ;;
    --reservation) flags+=("--reservation=$(option_value "$1" $# "${2-}")"); shift ;;
    --spot | --on-demand) flags+=("$1") ;;
    --max-restarts) restarts=$(option_value "$1" $# "${2-}"); shift ;;
    -h | --help) show_help; exit 0 ;;
    --) shift; break ;;
    -*) die "unknown option '$1' (see --help); the command goes after --" ;;
    *) break ;;
  esac
  shift
done
TPU_NAME=$workload
[[ -n $cluster ]] || die "no cluster; give --cluster"
[[ $workload =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] ||
  die "--workload: expected at most 40 lower-case letters, digits and hyphens, got '$workload'"
[[ -n $accelerator ]] || die "no accelerator type; give --accelerator, e.g. v5litepod-16, v5p-64 or v6e-16"
check_settings
[[ $extras =~ ^[a-z0-9,]+$ ]] || die "--extras: expected names with commas, got '$extras'"
[[ $restarts =~ ^[0-9]+$ ]] || die "--max-restarts: expected a number, got '$restarts'"
(($# > 0)) || die "no command; for example: gke.sh ... -- jaxpref train FILE workdir=gs://bucket/run"
[[ "$*" != *$'\n'* ]] || die "the command has a line break, which xpk cannot write into its YAML"
xpk=${XPK:-xpk}
if ! dry_run; then
  found=$(command -v "$xpk") || die "xpk is not on PATH; install it in an environment of its own (pipx install xpk), or set XPK or DRY_RUN=1"
  [[ ! -e $(dirname "$(readlink -f "$found")")/jaxpref ]] ||
    die "$found is in the environment of jaxpref, whose packages it changes; install it in one of its own (pipx install xpk)"
fi

# exec: SIGTERM then reaches jaxpref, which saves, and not a shell in front of it.
command="exec env JAXPREF_DISTRIBUTED=1 PYTHONUNBUFFERED=1 $(quote_all "$@")"
if [[ -n $image ]]; then
  source=("--docker-image=$image")
else
  root=$(git -C "$here" rev-parse --show-toplevel) || die "not in a git checkout; give --image"
  [[ -z $(git -C "$root" status --porcelain --untracked-files=no) ]] || note "warning: uncommitted changes are not copied"
  if dry_run; then folder=/tmp/jaxpref; else folder=$(mktemp -d); fi
  trap 'dry_run || rm -rf "$folder"' EXIT
  execute git -C "$root" archive --format=tar "--output=$folder/code.tar" HEAD
  execute tar -xf "$folder/code.tar" -C "$folder"
  execute rm "$folder/code.tar"
  source=("--base-docker-image=$base" "--script-dir=$folder")
  command="pip install --quiet -c constraints.txt -e '.[$extras]' && $command"
fi
((!restarts)) || flags+=("--max-restarts=$restarts" --restart-on-user-code-failure)
# Ten minutes for jaxpref to save after SIGTERM; the default is 30 seconds.
execute "$xpk" workload create "--cluster=$cluster" "--workload=$workload" "--tpu-type=$accelerator" \
  "--num-slices=$SLICES" "--zone=$ZONE" "--project=$PROJECT" "${source[@]}" ${flags[@]+"${flags[@]}"} \
  --termination-grace-period-seconds=600 "--command=$command"
dry_run || note "to see it: $xpk workload list --cluster=$cluster; to end it: $xpk workload delete --cluster=$cluster --workload=$workload"
