#!/usr/bin/env bash
# Fig. 4 with pretrained models, which have read far more text: loss and gain from context on the books that fig4.sh
# holds out, each model with its own tokens. The picture also shows the models of results/fig4.
#   PRESET=smoke  SmolLM2-135M, two documents of 256 tokens from each of ten books               2 cores, 2 minutes
#   PRESET=cpu    SmolLM2-135M, Gemma 3 270M, Qwen2.5-Coder 0.5B, one document of 4,096 tokens   2 cores, 1 hour
#                 from each of ten books (default; committed)
# Your own: MODELS="HuggingFaceTB/SmolLM2-360M Qwen/Qwen3-0.6B-Base" OUT=results/mine bash train_on_pg19/pretrained.sh [flags
# of evaluate.py]. The same command continues a killed run.
set -euo pipefail
cd "$(dirname "$0")/.."
. measure_mutual_info/_bipartite.sh
. train_on_pg19/_books.sh
begin "smoke cpu" MODELS OUT

inputs fig4 256 2048 8192 0
models=$smollm2 top=${OUT:-$out/pretrained} tokenizer="" # that of each model
case $PRESET in
    smoke) L=256 n=2 ;;
    cpu) L=4096 n=1 models+=" $gemma $qwen_small" ;;
esac
if [ -n "${MODELS:-}" ] || [ $# -gt 0 ]; then own_needs_out "MODELS or flags"; fi
models=${MODELS:-$models}
split_sample
corpus=$corpus/held_out folders=()
for model in $models; do
    documents=data/documents/held_out_${L}_$(short "$model") folder=$top/$(short "$model")
    find_start
    prepare "$L"
    "$python" train_on_pg19/evaluate.py --model "$model" --documents "$documents" --L "$L" --out "$folder/losses.csv" \
        --max-documents-per-book "$n" ${start[@]+"${start[@]}"} "$@"
    "$python" train_on_pg19/compare.py --losses "$folder/losses.csv" --out "$folder"
    folders+=("$folder")
done
"$python" plots/books.py --results results/fig4 --pretrained "${folders[@]}" --out "$top/pretrained"
