# shellcheck shell=bash
# Read by the launchers: what they share. Runs a training command, and runs it again when it asks.
#
# The command ends with 0 when the run is done; with 1 when a person must mend something, which its
# last line names; with 75 when it was told to stop and has saved that very step, or when others of
# its processes were late to start. A status above 128 is a death by signal. The launcher ends with
# the last status.
#
# LAUNCH_PAUSE is the number of seconds of every pause, in place of those that the launchers name: 5
# before a new start.

set -euo pipefail

restarts=20  # of one launch
dry_run=false
arguments=() # what the launcher does not know is for the training command
told=false   # to stop

# Takes --restarts and --dry_run; to be given each argument that a launcher does not know.
take() {
  case $1 in
    --restarts=*) restarts=${1#*=} ;;
    --dry_run | --dry-run) dry_run=true ;;
    --) ;;
    *) arguments+=("$1") ;;
  esac
}

say() { echo "launch: $*" >&2; }

fail() {
  say "$*"
  exit 1
}

# Every run needs the two.
require_run() {
  [[ $restarts =~ ^[0-9]+$ ]] || fail "--restarts=$restarts must be a number"
  local given=" ${arguments[*]-} " flag
  for flag in --config --workdir; do
    [[ $given == *" $flag="* ]] || fail "$flag=... is missing"
  done
}

# Waits as many seconds, or as many as LAUNCH_PAUSE says.
pause() { sleep "${LAUNCH_PAUSE:-$1}"; }

# Prints a command as it can be typed; runs it unless this is a dry run.
act() {
  if $dry_run; then
    printf '%q ' "$@" | sed 's/ $//'
    echo
  else
    "$@"
  fi
}

# Waits for a process and returns its status. `wait` alone would be ended by a signal that is passed
# on, before the process has saved and ended.
finish() {
  while kill -0 "$1" 2>/dev/null; do sleep 0.2; done
  wait "$1"
}

# Runs "$@" until it is done, fails for good, or has been started again $restarts times.
again() {
  if $dry_run; then
    "$@"
    echo "# again after status 75 or a death by signal, at most $restarts times"
    return 0
  fi
  local status restarted=0
  while true; do
    status=0
    "$@" || status=$?
    if [[ $status -eq 0 ]] || $told; then return "$status"; fi
    if [[ $status -ne 75 && $status -le 128 ]]; then
      say "status $status: not started again, see the line above"
      return "$status"
    fi
    if [[ $restarted -ge $restarts ]]; then
      say "status $status: already started again $restarts times"
      return "$status"
    fi
    restarted=$((restarted + 1))
    say "status $status: starting again, $restarted of at most $restarts times"
    pause 5
  done
}
