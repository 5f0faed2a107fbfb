#!/usr/bin/env bash
# One run on SLURM nodes, a process for each GPU.
#
#   sbatch --nodes=4 --gpus-per-node=8 --ntasks-per-node=8 --time=24:00:00 \
#     launch/slurm.sh --config=configs/mellow.py --workdir=/shared/runs/mellow
#     [--restarts=20] [--dry_run] [flags of mellow_jax.train]
#
# When a task dies all are started again within the job. Three minutes before the time limit, or
# when the job is preempted, the step is saved and the job is queued again; it goes on from there.
# The folder of the run must lie on a file system that all nodes share. Where JAX finds no GPU it is
# an error, unless --device=cpu is given.
#SBATCH --job-name=mellow
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@180

# sbatch runs a copy of this file from a folder of its own: launch/ lies where it was submitted.
# shellcheck source=again.sh
. "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}/launch/again.sh"

for argument in "$@"; do take "$argument"; done
require_run
$dry_run || [[ -n ${SLURM_JOB_ID:-} ]] || fail "start with sbatch, see the head of this file"

statuses=slurm-${SLURM_JOB_ID:-JOB}.statuses

pass_on() {
  told=true
  scancel --signal=TERM "$SLURM_JOB_ID" || true # the tasks; a signal to srun would kill them
}

# All tasks once. srun ends with the highest status of any task: of an error's 1 and the 143 of the
# tasks it then ends, 143. So each task writes its own down. Its shell outlives a signal to both.
run() {
  local status=0 own
  # shellcheck disable=SC2016  # the variables are those of the task
  local command=(srun --kill-on-bad-exit=1 bash -c
    'trap : TERM; "$@"; status=$?; echo "$status" >> "$0"; exit "$status"'
    "$statuses" "${PYTHON:-python}" -m mellow_jax.train --device=gpu "${arguments[@]}")
  if $dry_run; then
    act "${command[@]}"
    return
  fi
  rm -f "$statuses"
  "${command[@]}" &
  finish $! || status=$?
  if [[ $status -ne 0 && -f $statuses ]]; then
    while read -r own; do
      if [[ $own -gt 0 && $own -ne 75 && $own -le 128 ]]; then status=$own; fi
    done < "$statuses"
  fi
  return "$status"
}

trap pass_on TERM
result=0
again run || result=$?
if $dry_run; then
  echo "# told to stop by SLURM, once all tasks have ended with 75:"
  act scontrol requeue "${SLURM_JOB_ID:-JOB}"
elif $told && [[ $result -eq 75 ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$result"
