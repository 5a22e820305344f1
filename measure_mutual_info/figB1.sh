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

corpus=data/sample/wikipedia.jsonl model=$sample_model prepare_flags="--source wikipedia"
case $PRESET in
    smoke) results=results/smoke L_max=128 n_documents=8 documents=data/documents/wikipedia_128 ;;
    cpu) results=results L_max=2048 n_documents=32 documents=data/documents/wikipedia_2048 ;;
    paper)
        results=results/paper L_max=2048 n_documents=1024 documents=data/documents/wikipedia_llama_2048
        corpus=wikimedia/wikipedia model=meta-llama/Llama-3.1-405B-FP8
        prepare_flags="--source wikipedia --config 20231101.en --streaming --min-book-words 1000"
        ;;
    *) echo "error: PRESET=$PRESET: choose smoke, cpu or paper" >&2 && exit 2 ;;
esac

out=$results/figB1/wikipedia
measure "$PRESET" "$@"
panels=("$out")
if [ "$PRESET" = paper ]; then # the other model
    out=$results/figB1/deepseek documents=data/documents/pg19_deepseek_2048
    corpus=emozilla/pg19 model=deepseek-ai/DeepSeek-V3-Base
    prepare_flags="--source pg19 --streaming --min-book-words 5000"
    measure paper-deepseek "$@"
    panels+=("$out")
fi
for panel in "${panels[@]}"; do
    "$python" plots/bipartite.py --figure sweep --results "$panel" --out "$panel/sweep"
done
if [ -f "$results/fig2b/bipartite.csv" ]; then panels=("$results/fig2b" "${panels[@]}"); fi
"$python" plots/bipartite.py --figure B.1 --results "${panels[@]}" --out "$results/figB1/figB1"
