#!/usr/bin/env bash
# Fig. B.1: bipartite mutual information of another corpus (Wikipedia), and by another model, beside Fig. 2b.
#   PRESET=smoke  SmolLM2-135M, 8 documents of the Wikipedia excerpt to L = 128                      2 CPU cores, 1 minute
#   PRESET=cpu    SmolLM2-135M, 32 documents of the excerpt to L = 2048 (committed; default)         2 CPU cores, 15 minutes
#   PRESET=paper  Llama 3.1 405B on Wikipedia, DeepSeek V3 Base on PG19; 1,024 documents each        8 (16) × H100, hours
# With PRESET=cpu the other model is missing, because the sample has one model.
# Reads the results of fig2b.sh with the same PRESET for the panel beside it.
set -euo pipefail
cd "$(dirname "$0")/.."
. measure_mutual_info/_bipartite.sh
begin

case $PRESET in
    smoke)
        out=results/smoke/figB1 beside=results/smoke/fig2b L_max=128 n_documents=8
        corpus=data/sample/wikipedia.jsonl model=$sample_model documents=wikipedia_128 prepare_flags="--source wikipedia"
        ;;
    cpu)
        out=results/figB1 beside=results/fig2b L_max=2048 n_documents=32
        corpus=data/sample/wikipedia.jsonl model=$sample_model documents=wikipedia_2048 prepare_flags="--source wikipedia"
        ;;
    paper)
        out=results/paper/figB1 beside=results/paper/fig2b L_max=2048 n_documents=1024
        corpus=wikimedia/wikipedia model=meta-llama/Llama-3.1-405B-FP8 documents=wikipedia_llama_2048
        prepare_flags="--source wikipedia --config 20231101.en --streaming --min-book-words 1000"
        second_corpus=emozilla/pg19 second_model=deepseek-ai/DeepSeek-V3-Base second_documents=pg19_deepseek_2048
        second_prepare_flags="--source pg19 --streaming --min-book-words 5000"
        ;;
    *) echo "error: PRESET=$PRESET: choose smoke, cpu or paper" >&2 && exit 2 ;;
esac

measure "$out/wikipedia" "data/documents/$documents" "$corpus" "$model" "$L_max" "$n_documents" "$prepare_flags" \
    "$PRESET" "$@"
panels=("$out/wikipedia")
if [ "$PRESET" = paper ]; then
    measure "$out/deepseek" "data/documents/$second_documents" "$second_corpus" "$second_model" "$L_max" "$n_documents" \
        "$second_prepare_flags" paper-deepseek "$@"
    panels+=("$out/deepseek")
fi
for panel in "${panels[@]}"; do
    "$python" plots/bipartite.py --figure sweep --results "$panel" --out "$panel/sweep"
done
if [ -f "$beside/bipartite.csv" ]; then panels=("$beside" "${panels[@]}"); fi
"$python" plots/bipartite.py --figure B.1 --results "${panels[@]}" --out "$out/figB1"
