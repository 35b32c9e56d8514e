#!/usr/bin/env bash
# Trains with several processes, on one machine or many: scripts/train_multi.sh PROCESSES COMMAND [options of `rxrl COMMAND`]
#   scripts/train_multi.sh 2 stage pretrain --data corpus --preset nano --out runs/pretrain
#   scripts/train_multi.sh 2 train --from runs/smat/checkpoint --out runs/mrl
# On several machines run it on each of them, with the same options and a folder --out that all of them see:
#   NODES=2 NODE=0 MASTER=10.0.0.1:29500 scripts/train_multi.sh 8 train ...   # and NODE=1 on the second
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

ensure_environment core
[[ "${1:-}" =~ ^[1-9][0-9]*$ ]] || fail "Give the number of processes on this machine first: $0 2 train --from CHECKPOINT --out FOLDER"
processes="$1"
shift
[[ "${1:-}" =~ ^(stage|train|pipeline)$ ]] || fail "Give what to run in $processes processes: stage, train or pipeline, got '${1:-}'."
nodes="${NODES:-1}"
if ((nodes > 1)); then
    [[ "${MASTER:-}" == *:* ]] || fail "NODES=$nodes needs MASTER=HOST:PORT, the first machine and a free port of it."
    [[ "${NODE:-}" =~ ^[0-9]+$ ]] || fail "NODES=$nodes needs NODE, the number of this machine from 0."
    meeting=(--nnodes "$nodes" --node-rank "$NODE" --master-addr "${MASTER%:*}" --master-port "${MASTER##*:}")
else
    meeting=(--standalone)
fi
# Without a GPU accelerate has to be told that processes share out the CPU.
"$VENV/bin/python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || export ACCELERATE_USE_CPU=true
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
"$VENV/bin/python" -m torch.distributed.run "${meeting[@]}" --nproc-per-node "$processes" -m rxrl "$@"
