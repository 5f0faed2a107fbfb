#!/usr/bin/env bash
# One run on a TPU slice of a GKE cluster that has JobSet: a pod for each host of the slice.
#
#   launch/gke_jobset.sh --name=mellow --accelerator=tpu-v5-lite-podslice --topology=16x16
#     --image=REGISTRY/mellow_jax:TAG --claim=shared
#     --config=configs/mellow.py --workdir=/mnt/shared/runs/mellow
#     [--chips_per_host=4] [--restarts=20] [--dry_run] [flags of mellow_jax.train]
#
# launch/Dockerfile makes the image, with --build-arg JAX=tpu: its first lines say how. --claim is
# a PersistentVolumeClaim (ReadWriteMany, Filestore for example), mounted at /mnt/shared. The
# processes find each other by what GKE tells each pod of its slice.
#
# JobSet restarts all pods when one dies or ends with 75, at most --restarts times. At status 1 or 2
# the JobSet fails: `kubectl logs` shows the line. --dry_run prints the manifest.

# shellcheck source=again.sh
. "$(dirname "${BASH_SOURCE[0]}")/again.sh"

name='' accelerator='' topology='' image='' claim='' chips_per_host=4
for argument in "$@"; do
  case $argument in
    --name=*) name=${argument#*=} ;;
    --accelerator=*) accelerator=${argument#*=} ;;
    --topology=*) topology=${argument#*=} ;;
    --image=*) image=${argument#*=} ;;
    --claim=*) claim=${argument#*=} ;;
    --chips_per_host=*) chips_per_host=${argument#*=} ;;
    *) take "$argument" ;;
  esac
done
require_run
for flag in name accelerator topology image claim; do
  [[ -n ${!flag} ]] || fail "--$flag=... is missing"
done
[[ $topology =~ ^[0-9]+(x[0-9]+){1,2}$ ]] || fail "--topology=$topology must be AxB or AxBxC"
[[ $chips_per_host =~ ^[1-9][0-9]*$ ]] || fail "--chips_per_host=$chips_per_host must be a number"
chips=$((${topology//x/*}))
((chips % chips_per_host == 0)) ||
  fail "--chips_per_host=$chips_per_host does not divide the $chips chips of $topology"
hosts=$((chips / chips_per_host))

# A YAML string in single quotes, of any content.
quote() { printf "'%s'" "${1//\'/\'\'}"; }

manifest() {
  cat << YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $(quote "$name")
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $restarts
    rules:
      - action: FailJobSet  # what a person must mend: see podFailurePolicy
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: slice
      replicas: 1
      template:
        spec:
          parallelism: $hosts
          completions: $hosts
          backoffLimit: 0  # never one pod alone
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes:
                  operator: In
                  values: [1, 2]
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: 120  # to save the step after SIGTERM
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $(quote "$accelerator")
                cloud.google.com/gke-tpu-topology: $(quote "$topology")
              securityContext:
                runAsUser: 0  # of the device files of TPUs and of a new volume
              containers:
                - name: train
                  image: $(quote "$image")
                  ports:
                    - containerPort: 8471  # between the TPU hosts
                    - containerPort: 8482  # of JAX's coordinator
                  resources:
                    limits:
                      google.com/tpu: $chips_per_host
                  volumeMounts:
                    - name: shared
                      mountPath: /mnt/shared
                  command:
                    - python
                    - -m
                    - mellow_jax.train
                    - --device=tpu
$(for argument in "${arguments[@]}"; do echo "                    - $(quote "$argument")"; done)
              volumes:
                - name: shared
                  persistentVolumeClaim:
                    claimName: $(quote "$claim")
YAML
}

if $dry_run; then
  manifest
else
  command -v kubectl > /dev/null || fail "kubectl is missing"
  kubectl delete jobset "$name" --ignore-not-found # the same name again: the run goes on
  manifest | kubectl create -f -
  say "follow it with: kubectl logs -f -l jobset.sigs.k8s.io/jobset-name=$name"
fi
