#!/usr/bin/env bash
# One run on a Cloud TPU slice, from any machine with gcloud: makes the slice, installs this
# checkout on all its hosts, runs, starts again.
#
#   launch/tpu_pod.sh --name=mellow --zone=us-west4-a --type=v5litepod-256 --nfs=10.0.0.2:/share
#     --config=configs/mellow.py --workdir=/mnt/shared/runs/mellow
#     [--version=v2-alpha-tpuv5-lite] [--spot] [--restarts=20] [--dry_run] [flags of mellow_jax.train]
#
# --nfs is a share (Filestore, for example) that every host mounts at /mnt/shared: the run's folder
# and its data must lie there. The processes find each other by the slice's metadata. When one host
# dies, the others end within --heartbeat_seconds, and all are started again; a slice that was
# preempted is made anew first. The slice stays when the run is done; the last line says how to
# delete it.

# shellcheck source=again.sh
. "$(dirname "${BASH_SOURCE[0]}")/again.sh"

name='' zone='' type='' nfs='' version=v2-alpha-tpuv5-lite spot=()
for argument in "$@"; do
  case $argument in
    --name=*) name=${argument#*=} ;;
    --zone=*) zone=${argument#*=} ;;
    --type=*) type=${argument#*=} ;;
    --version=*) version=${argument#*=} ;;
    --nfs=*) nfs=${argument#*=} ;;
    --spot) spot=(--spot) ;;
    *) take "$argument" ;;
  esac
done
require_run
for flag in name zone type nfs; do
  [[ -n ${!flag} ]] || fail "--$flag=... is missing"
done
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
$dry_run || command -v gcloud > /dev/null || fail "gcloud is missing: cloud.google.com/sdk"

tpu=(gcloud compute tpus)
on_all() { act "${tpu[@]}" tpu-vm ssh "$name" "--zone=$zone" --worker=all "--command=$1"; }

create() {
  act "${tpu[@]}" queued-resources create "$name" "--node-id=$name" "--zone=$zone" \
    "--accelerator-type=$type" "--runtime-version=$version" "${spot[@]+"${spot[@]}"}"
}

# The slice, made if there is none or if it was taken away, and this checkout on each host.
prepare() {
  local state=
  if $dry_run; then
    echo "# unless the slice is there:"
    create
    echo "# once it is ACTIVE:"
  fi
  until $dry_run || [[ $state == ACTIVE ]]; do
    state=$("${tpu[@]}" queued-resources describe "$name" "--zone=$zone" \
      "--format=value(state.state)" 2>/dev/null || true)
    case $state in
      ACTIVE) ;;
      "") create ;;
      SUSPENDED | SUSPENDING | FAILED)
        say "the slice is $state: making it anew"
        act "${tpu[@]}" queued-resources delete "$name" "--zone=$zone" --force --quiet || true
        ;;
      *)
        say "the slice is $state"
        sleep 60
        ;;
    esac
    ! $told || return 75
  done
  # As git has it: what is not committed does not travel.
  local archive=${TMPDIR:-/tmp}/$name.tar.gz
  act git -C "$root" archive --prefix=mellow_jax/ -o "$archive" HEAD
  act "${tpu[@]}" tpu-vm scp "$archive" "$name:mellow_jax.tar.gz" "--zone=$zone" --worker=all
  on_all "set -e; tar -xzf mellow_jax.tar.gz
    [ -x venv/bin/python ] || python3 -m venv venv
    venv/bin/pip install --quiet './mellow_jax[tpu]'
    sudo mkdir -p /mnt/shared
    mountpoint -q /mnt/shared || { sudo apt-get install -y -q nfs-common; sudo mount -t nfs $nfs /mnt/shared; }"
}

# All hosts once. gcloud tells of several hosts no status but failure, so each writes its own.
run() {
  local status=0 own train
  prepare || return $?
  printf -v train '%q ' "${arguments[@]}"
  train="$(kill_all KILL); cd mellow_jax
    ../venv/bin/python -m mellow_jax.train ${train}2>&1; echo \"mellow_jax.train ended with \$?\""
  if $dry_run; then
    on_all "$train"
    return
  fi
  log=$(mktemp)
  { on_all "$train" | tee "$log"; } &
  # A lost connection is a lost host.
  finish $! || status=255
  while read -r own; do
    # An error that a person must mend counts more than how the other hosts ended.
    if [[ $own -ne 0 && ($status -eq 0 || $status -eq 75 || $status -gt 128) ]]; then
      status=$own
    fi
  done < <(sed -n 's/.*mellow_jax.train ended with \([0-9]*\)$/\1/p' "$log")
  rm -f "$log"
  return "$status"
}

# By how its command line begins: that of the shell that ssh starts holds the same words.
kill_all() { echo "pkill -$1 -f '^../venv/bin/python -m mellow_jax'"; }

pass_on() {
  told=true
  on_all "$(kill_all TERM)" || true
}
trap pass_on TERM INT

result=0
again run || result=$?
echo "# the slice stays: gcloud compute tpus queued-resources delete $name --zone=$zone --force"
exit "$result"
