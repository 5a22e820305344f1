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

PRESET=${PRESET:-cpu}
wikipedia=(data/sample/wikipedia.jsonl "$sample_model")
case $PRESET in
    smoke)
        out=results/smoke/figB1 beside=results/smoke/fig2b
        measure $out/wikipedia data/documents/wikipedia_128 "${wikipedia[@]}" 128 8 "--source wikipedia" "$@"
        panels=("$out/wikipedia")
        ;;
    cpu)
        out=results/figB1 beside=results/fig2b
        measure "$out/wikipedia" data/documents/wikipedia_2048 "${wikipedia[@]}" 2048 32 "--source wikipedia" "$@"
        panels=("$out/wikipedia")
        ;;
    paper)
        out=results/paper/figB1 beside=results/paper/fig2b
        measure $out/wikipedia data/documents/wikipedia_llama_2048 wikimedia/wikipedia meta-llama/Llama-3.1-405B-FP8 2048 1024 \
            "--source wikipedia --config 20231101.en --streaming --min-book-words 1000" \
            --backend vllm --dtype bfloat16 --tensor-parallel 8 --batch-tokens 65536 "$@"
        measure $out/deepseek data/documents/pg19_deepseek_2048 emozilla/pg19 deepseek-ai/DeepSeek-V3-Base 2048 1024 \
            "--source pg19 --streaming --min-book-words 5000" \
            --backend vllm --dtype bfloat16 --tensor-parallel 8 --pipeline-parallel 2 --batch-tokens 65536 "$@"
        panels=("$out/wikipedia" "$out/deepseek")
        ;;
    *) echo "error: PRESET=$PRESET: choose smoke, cpu or paper" >&2 && exit 2 ;;
esac
for panel in "${panels[@]}"; do
    "$python" plots/bipartite.py --figure sweep --results "$panel" --out "$panel/sweep"
done
if [ -f "$beside/bipartite.csv" ]; then panels=("$beside" "${panels[@]}"); fi
"$python" plots/bipartite.py --figure B.1 --results "${panels[@]}" --out "$out/figB1"
