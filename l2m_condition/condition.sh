#!/usr/bin/env bash
# The L²M condition (Sec. 5; not a figure of the paper): history states of published models and the laws of I(L/2; L).
#   PRESET=smoke  three models to 65,536 tokens, the paper's laws                           1 CPU core, 10 seconds
#   PRESET=cpu    all models of configurations.json to 16,777,216 tokens, and the law that  1 CPU core, half a minute
#                 was measured on books (committed; default)
#   PRESET=paper  the same with the laws that fig2b.sh has measured with PRESET=paper       1 CPU core, half a minute
# Your own models and law:
#     MODELS="Qwen/Qwen3-8B my_model/" FIT=results/mine/fit.csv OUT=results/mine/condition bash l2m_condition/condition.sh
# Flags go to required_state.py, e.g. --bits-per-element 4 --wanted 100_000.
set -euo pipefail
cd "$(dirname "$0")/.."
. common/environment.sh
begin "smoke cpu paper" MODELS FIT OUT

contexts=(256 512 1024 2048 4096 8192 16384 32768 65536)
more=(131072 262144 524288 1048576 2097152 4194304 8388608 16777216)
models=() fit=
case $PRESET in
    smoke) models=(Llama-3.1-8B Gemma-3-27B Mamba-130M) ;;
    *) contexts+=("${more[@]}") fit=$results/fig2b/fit.csv ;;
esac
if [ -n "${MODELS:-}${FIT:-}" ] || [ $# -gt 0 ]; then # custom inputs
    own_needs_out "MODELS, FIT or flags"
fi
read -ra models <<< "${MODELS:-${models[*]}}"
out=${OUT:-$results/condition} fit=${FIT:-$fit}

"$python" l2m_condition/state_size.py --out "$out/state.csv" --context "${contexts[@]}" ${models:+--model "${models[@]}"}
"$python" l2m_condition/required_state.py --state "$out/state.csv" --out "$out" ${fit:+--fit "$fit"} \
    --capacity results/capacity/capacity.csv "$@"
"$python" plots/condition.py --results "$out" --out "$out/condition"
