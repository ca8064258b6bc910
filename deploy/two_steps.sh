#!/bin/bash
# Runs a job on an autoscaling cluster in two steps: first embeds on GPUs, then does everything else on CPU cores.
#
#   bash two_steps.sh JOB.yaml GPU_WORKERS CPU_WORKERS [--set PATH=VALUE ...]
#
# A stage uses the given number of workers, and the cluster grows until they fit. One number is not enough: 8 workers that
# embed use 8 GPUs, but 8 workers that compare vectors use only 8 cores. The second run uses the vectors of the first one
# again. Either run may be killed at any time; the same command resumes.
set -euo pipefail

if (($# < 3)); then
    echo "two_steps.sh needs JOB.yaml, the number of workers that embed, and that of workers that decide" >&2
    exit 2
fi
job=$1 embedding=$2 deciding=$3
shift 3

# a policy without cuts keeps everything; its manifest costs a few seconds for a million samples
winnow run "$job" --workers "$embedding" "$@" --set 'policy=[]' --set shards=null
# k-means uses CPU cores here too; by default it uses a GPU if the job has GPUs
winnow run "$job" --workers "$deciding" "$@" --set resources.kmeans_gpus=0
