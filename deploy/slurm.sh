#!/bin/bash
# Runs one job on the nodes of a Slurm allocation: Ray on all nodes, the driver on the first. Fails if the job fails.
#
#   ray get-auth-token --generate                                # once: writes ~/.ray/auth_token; all nodes must see this home
#   sbatch deploy/slurm.sh jobs/laion_dbp.yaml --set store=/scratch/winnow
#
# Activate winnow's environment before you call sbatch. Needs Ray 2.49 or later (symmetric-run). The same command
# resumes, so a time limit that is too short loses only the shards in progress.
#
# Sizes: for jobs/laion_dbp.yaml (440M pairs), by the arithmetic of docs/scale.md:
#   GPUs    2 nodes x 4. ViT-B/16 and DINOv2 L/14 take 8.9e19 FLOP: 10 hours of 8 H100 at 30 % of their peak.
#   cores   64 a node. A worker that embeds takes 14 and one GPU (4 x 14 = 56); the rest is for Ray and the system. At
#           300 JPEG/s a core, 14 cores decode 4,200/s. Then 128 cores decide: 72 core hours of comparing and assigning
#           (1.3e16 FLOP at 50 GFLOP/s a core) take 35 minutes.
#   memory  512 GB a node: 64 workers of an exchange hold at most 2 GB each if shards have at most 100,000 rows.
#   disk    the exchange writes 450 GB of vectors to the store, or to resources.scratch, which both nodes must see.
#   time    twice the sum of 10 h for GPUs and 2 h for cores.
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
# exclusive, because symmetric-run ends with `ray stop`, which stops all Ray processes of this user on a node
set -euo pipefail

if (($# < 1)); then
    echo "slurm.sh needs a job: sbatch deploy/slurm.sh JOB.yaml [--set PATH=VALUE ...]" >&2
    exit 2
fi

# anyone who reaches Ray's ports, such as another user of the cluster, can run code as you, so a token is required
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
if [[ ! -s $RAY_AUTH_TOKEN_PATH ]]; then
    echo "there must be a token in $RAY_AUTH_TOKEN_PATH: run ray get-auth-token --generate" >&2
    exit 2
fi

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=${hosts%%$'\n'*}:$((20000 + SLURM_JOB_ID % 10000)) # two jobs on one node get different ports
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600 # all nodes import Ray from a shared disk at the same time

# symmetric-run exits with 0 even if Ray did not start, so the job creates a file when it has succeeded
whole=$SLURM_SUBMIT_DIR/.winnow-$SLURM_JOB_ID
rm -f "$whole"
# shellcheck disable=SC2016  # "$@" and "$0" are those of the inner shell
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --kill-on-bad-exit=1 \
    ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --include-dashboard=false \
    -- bash -c 'winnow run "$@" && touch "$0"' "$whole" "$@" --address "$address"

if [[ ! -e $whole ]]; then
    echo "the job must succeed, but it failed: see above; the same command resumes" >&2
    exit 1
fi
rm "$whole"
