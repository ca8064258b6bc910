#!/bin/bash
# Runs a job on a cluster that grows: images through the GPUs first, then everything else on cores alone.
#
#   bash two_steps.sh JOB.yaml GPU_WORKERS CPU_WORKERS [--set PATH=VALUE ...]
#
# A stage takes as many workers as it is told, and a cluster grows to what its workers ask for. One number would not do:
# 8 workers that embed are 8 GPUs, but 8 workers that compare vectors are 8 cores. The second run finds the vectors of the
# first one done. Either may be killed anywhere; the same command resumes.
set -euo pipefail

if (($# < 3)); then
    echo "two_steps.sh needs JOB.yaml, the number of workers that embed, and that of workers that decide" >&2
    exit 2
fi
job=$1 embedding=$2 deciding=$3
shift 3

# a policy without cuts keeps all; its manifest is the price, a few seconds for a million samples
winnow run "$job" --workers "$embedding" "$@" --set 'policy=[]' --set shards=null
# k-means too: it would ask for a GPU, because the job has some
winnow run "$job" --workers "$deciding" "$@" --set resources.kmeans_gpus=0
