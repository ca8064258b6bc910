#!/bin/bash
# Runs one job on the nodes of a Slurm allocation, Ray on each and the job on the first; fails unless the job came to its end.
#
#   ray get-auth-token --generate                                # once: ~/.ray/auth_token, in a home that all nodes see
#   sbatch deploy/slurm.sh jobs/laion_dbp.yaml --set store=/scratch/winnow
#
# The environment that has winnow must be active when sbatch is called. Needs Ray 2.49 or later (symmetric-run). The same
# command resumes, so a time limit that is too short costs the shards under way and no more.
#
# Sizes, for jobs/laion_dbp.yaml (440M pairs) with docs/scale.md's arithmetic:
#   GPUs    2 nodes x 4. ViT-B/16 and DINOv2 L/14 are 8.9e19 FLOP: 10 hours of 8 H100 at 30 % of their peak.
#   cores   64 a node. A worker that embeds takes 14 beside its GPU (4 x 14 = 56), the rest is Ray's and the system's. At
#           300 JPEG/s a core, 14 cores decode 4,200/s. Deciding then has 128 cores: 72 core hours of comparing and assigning
#           (1.3e16 FLOP at 50 GFLOP/s a core) take 35 minutes.
#   memory  512 GB a node: 64 workers of an exchange hold 2 GB each, where shards have 100,000 rows or fewer.
#   disk    the exchange is 450 GB of vectors in the store, or under resources.scratch, which both nodes must see.
#   time    10 h of GPUs and 2 h of cores, doubled.
#SBATCH --job-name=winnow
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=64
#SBATCH --mem=512G
#SBATCH --time=24:00:00
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
# exclusive: symmetric-run ends with `ray stop`, which ends every Ray of its user on a node
set -euo pipefail

if (($# < 1)); then
    echo "slurm.sh needs a job: sbatch deploy/slurm.sh JOB.yaml [--set PATH=VALUE ...]" >&2
    exit 2
fi

# whoever reaches Ray's ports can run code as you: other users of the cluster can, so no node starts without a token
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
if [[ ! -s $RAY_AUTH_TOKEN_PATH ]]; then
    echo "there must be a token in $RAY_AUTH_TOKEN_PATH: run ray get-auth-token --generate" >&2
    exit 2
fi

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=${hosts%%$'\n'*}:$((20000 + SLURM_JOB_ID % 10000)) # a port of its own, where two jobs share a node against all advice
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600 # nodes import Ray from a shared disk, all at once

# symmetric-run exits with 0 where Ray itself did not start, so the job says by a file that it was whole
whole=$SLURM_SUBMIT_DIR/.winnow-$SLURM_JOB_ID
rm -f "$whole"
# shellcheck disable=SC2016  # "$@" and "$0" are those of the inner shell
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --kill-on-bad-exit=1 \
    ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --include-dashboard=false \
    -- bash -c 'winnow run "$@" && touch "$0"' "$whole" "$@" --address "$address"

if [[ ! -e $whole ]]; then
    echo "the job did not come to its end: see above; the same command resumes" >&2
    exit 1
fi
rm "$whole"
