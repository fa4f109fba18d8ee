#!/bin/bash
# Scores rows.jsonl in 64 shards, one task a shard: sbatch score.sh
# Submit it again if tasks were killed: finished shards stay, and the others go on. Then join them:
# codescaler join-shards rows.jsonl scored_shards -o scored.jsonl
#SBATCH --job-name=codescaler
#SBATCH --array=1-64
#SBATCH --cpus-per-task=16
#SBATCH --requeue
srun codescaler score rows.jsonl --model "${MODEL:-nano}" --num-threads "$SLURM_CPUS_PER_TASK" \
  --out-dir scored_shards --shard "$SLURM_ARRAY_TASK_ID/64"
