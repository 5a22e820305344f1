#!/usr/bin/env bash
# The scoring benchmark on one GPU: tokens and seconds a document of our schedule against the paper's and plain trimmed
# prompts, in fp32 and bf16. Random weights and random tokens, except the sample model if it is there.
# For one H100 or H200, with an environment active that has torch for it. Writes results/benchmarks/scoring_<model>_<dtype>.csv.
set -euo pipefail
cd "$(dirname "$0")/.."
. common/environment.sh
begin OUT
OUT=${OUT:-results/benchmarks}
sample=${SAMPLE_MODEL:-data/sample/model/SmolLM2-135M-Instruct.Q4_1.gguf}

measure() { # NAME MODEL DTYPE DOCUMENTS_A_BATCH
    "$python" benchmarks/scoring.py --model "$2" --dtype "$3" --batch-documents "$4" --device "${DEVICE:-cuda}" \
        --out "$OUT/scoring_$1_$3.csv" "${@:5}"
}

if [ -f "$sample" ]; then
    measure smollm2 "$sample" float32 16 "$@"
    measure smollm2 "$sample" bfloat16 16 "$@"
fi
measure random-1b random-1b float32 8 "$@"
measure random-1b random-1b bfloat16 8 "$@"
measure random-8b random-8b bfloat16 4 "$@"
