#!/usr/bin/env bash
# One run on all GPUs of this machine, one process.
#
#   launch/gpu.sh --config=configs/mellow.py --workdir=runs/mellow [--restarts=20] [--dry_run]
#     [flags of mellow_jax.train]
#
# A run that dies or is told to stop is started again and goes on from its last checkpoint. SIGTERM
# and SIGINT to this script save the step and end with 75. Where JAX finds no GPU it is an error,
# unless --device=cpu is given.

# shellcheck source=again.sh
. "$(dirname "${BASH_SOURCE[0]}")/again.sh"

for argument in "$@"; do take "$argument"; done
require_run

trainer=
pass_on() {
  told=true
  [[ -z $trainer ]] || kill -TERM "$trainer" 2>/dev/null || true
}

run() {
  # The device is named, since JAX would otherwise train on the CPU where it finds no GPU.
  local command=(env "XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}"
    "${PYTHON:-python}" -m mellow_jax.train --device=gpu "${arguments[@]}")
  if $dry_run; then
    act "${command[@]}"
  else
    "${command[@]}" &
    trainer=$!
    finish "$trainer"
  fi
}

trap pass_on TERM INT
again run
