#!/usr/bin/env bash
# One run on a Cloud TPU slice, from any machine with gcloud: makes the slice, installs this
# checkout on all its hosts, runs, starts again.
#
#   launch/tpu_pod.sh --name=mellow --zone=us-west4-a --type=v5litepod-256 --nfs=10.0.0.2:/share
#     --config=configs/mellow.py --workdir=/mnt/shared/runs/mellow
#     [--version=v2-alpha-tpuv5-lite] [--spot] [--restarts=20] [--dry_run] [flags of mellow_jax.train]
#
# --nfs is a share (Filestore, for example) that every host mounts at /mnt/shared: the run's folder
# and its data must lie there. The hosts must reach the internet. Where their image has no Python
# 3.11, 3.12 or 3.13 with venv, as that of --version, uv installs 3.12 below their home folder.
#
# The processes find each other by the slice's metadata. When one host dies, the others end within
# --heartbeat_seconds, and all are started again; a slice that was preempted is made anew first.
# What gcloud or ssh cannot do is tried five times; then the launcher ends with 1. The slice stays
# when the run is done; the last line says how to delete it.

# shellcheck source=again.sh
. "$(dirname "${BASH_SOURCE[0]}")/again.sh"

tries=5 # of what may fail for a while: gcloud, ssh, apt
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
describe() { "${tpu[@]}" queued-resources describe "$name" "--zone=$zone" "$@"; }

create() {
  act "${tpu[@]}" queued-resources create "$name" "--node-id=$name" "--zone=$zone" \
    "--accelerator-type=$type" "--runtime-version=$version" "${spot[@]+"${spot[@]}"}"
}

delete() { "${tpu[@]}" queued-resources delete "$name" "--zone=$zone" --force --quiet; }

# The slice, made if there is none or if it was taken away. Bash ignores `set -e` here and below,
# since the callers ask for the status: what may fail says what follows.
slice() {
  local state unknown=0 failed=0
  while true; do
    state=$(describe "--format=value(state.state)") || state=
    [[ -z $state ]] || unknown=0
    case $state in
      ACTIVE) return 0 ;;
      "")
        # There is none, or gcloud cannot tell, as without a login: then it can make none either.
        if [[ $unknown -ge $tries ]]; then
          say "the slice $name can neither be found nor made: see the lines above"
          return 1
        fi
        unknown=$((unknown + 1))
        say "gcloud finds no slice $name in $zone: making it"
        create || true
        pause 10
        ;;
      SUSPENDED | SUSPENDING)
        say "the slice is $state: making it anew"
        delete || true
        pause 10
        ;;
      FAILED)
        describe >&2 || true # says why
        failed=$((failed + 1))
        if [[ $failed -ge $tries ]]; then
          say "the slice could not be made, $failed times: see the lines above"
          return 1
        fi
        say "the slice is $state: making it anew"
        delete || true
        pause 60
        ;;
      *)
        say "the slice is $state"
        pause 60
        ;;
    esac
    if $told; then return 75; fi
  done
}

# What a host does before the run. It may have been interrupted at any line, and does all again.
on_host() {
  cat << HOST
set -e
tar -xzf mellow_jax.tar.gz
fits='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
is_ready() { venv/bin/python -c "\$fits" && venv/bin/python -m pip --version; } > /dev/null 2>&1
for python in python3.12 python3.13 python3.11 python3; do
  if is_ready; then break; fi
  rm -rf venv
  if "\$python" -c "\$fits" 2> /dev/null; then "\$python" -m venv venv || true; fi
done
if ! is_ready; then
  rm -rf venv
  [ -x uv/bin/uv ] || python3 -m pip install --quiet --target=uv uv ||
    curl -LsSf https://astral.sh/uv/install.sh | env UV_UNMANAGED_INSTALL="\$PWD/uv/bin" sh
  uv/bin/uv venv --quiet --seed --python=3.12 venv
fi
venv/bin/python -m pip install --quiet './mellow_jax[tpu]'
sudo mkdir -p /mnt/shared
if ! mountpoint -q /mnt/shared; then
  if [ ! -x /sbin/mount.nfs ]; then
    # A new host may still be installing updates of its own.
    sudo apt-get update -q || true
    sudo apt-get install -q -y -o DPkg::Lock::Timeout=300 nfs-common
  fi
  sudo mount -t nfs $nfs /mnt/shared
fi
HOST
}

# This checkout on each host, as git has it: what is not committed does not travel.
install() {
  local archive=${TMPDIR:-/tmp}/$name.tar.gz
  act git -C "$root" archive --prefix=mellow_jax/ -o "$archive" HEAD || return
  act "${tpu[@]}" tpu-vm scp "$archive" "$name:mellow_jax.tar.gz" "--zone=$zone" --worker=all ||
    return
  on_all "$(on_host)" || return
}

prepare() {
  local failed=0
  if $dry_run; then
    echo "# unless the slice is there:"
    create
    echo "# once it is ACTIVE:"
    install
    return
  fi
  while true; do
    slice || return
    # A slice may be taken away meanwhile, and a new host be busy with itself.
    if install; then return 0; fi
    if $told; then return 75; fi
    failed=$((failed + 1))
    if [[ $failed -ge $tries ]]; then
      say "the checkout could not be installed on all hosts, $failed times: see the lines above"
      return 1
    fi
    say "the checkout could not be installed on all hosts: trying again, $failed of $((tries - 1))"
    pause 30
  done
}

# All hosts once. gcloud tells of several hosts no status but failure, so each writes its own.
run() {
  local status=0 own train
  prepare || return $?
  printf -v train '%q ' --device=tpu "${arguments[@]}"
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
