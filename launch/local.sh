#!/usr/bin/env bash
# One run as several processes on this machine's CPU: to try what a pod does without one.
#
#   launch/local.sh --config=configs/demo.py --workdir=runs/demo [--processes=2]
#     [--restarts=20] [--dry_run] [flags of mellow_jax.train]
#
# When a process dies all are started again, and go on from the last checkpoint. SIGTERM and SIGINT
# are passed on: the run saves its step and ends with 75.

# shellcheck source=again.sh
. "$(dirname "${BASH_SOURCE[0]}")/again.sh"

processes=2
for argument in "$@"; do
  case $argument in
    --processes=*) processes=${argument#*=} ;;
    *) take "$argument" ;;
  esac
done
require_run
[[ $processes =~ ^[1-9][0-9]*$ ]] || fail "--processes=$processes must be a number above 0"

python=${PYTHON:-python}
ranks=()

pass_on() {
  told=true
  [[ ${#ranks[@]} -eq 0 ]] || kill -TERM "${ranks[@]}" 2>/dev/null || true
}

# All processes once; the status of the first that did not end well.
run() {
  local port=PORT first=0 status seconds=0 left i rank
  if ! $dry_run; then
    port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])')
  fi
  ranks=()
  for ((i = 0; i < processes; i++)); do
    local command=(env JAX_PLATFORMS=cpu "$python" -m mellow_jax.train "${arguments[@]}"
      "--coordinator=127.0.0.1:$port" "--processes=$processes" "--process_id=$i")
    if $dry_run; then
      act "${command[@]}"
    else
      "${command[@]}" &
      ranks+=($!)
    fi
  done
  while [[ ${#ranks[@]} -gt 0 ]]; do
    sleep 0.2
    left=()
    for rank in "${ranks[@]}"; do
      if kill -0 "$rank" 2>/dev/null; then
        left+=("$rank")
        continue
      fi
      status=0
      wait "$rank" || status=$?
      [[ $status -ne 0 ]] || continue
      say "the process with id $rank ended with status $status"
      if [[ $first -eq 0 ]]; then
        first=$status
        seconds=$SECONDS
      fi
    done
    ranks=("${left[@]+"${left[@]}"}")
    # The others of a dead process wait for it in vain; after 75 or an error each ends by itself.
    if [[ $first -gt 128 || ($first -ne 0 && $((SECONDS - seconds)) -gt 60) ]]; then
      [[ ${#ranks[@]} -eq 0 ]] || kill -KILL "${ranks[@]}" 2>/dev/null || true
    fi
  done
  return "$first"
}

trap pass_on TERM INT
again run
