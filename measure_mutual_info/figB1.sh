#!/usr/bin/env bash
# Fig. B.1: bipartite mutual information of another corpus (Wikipedia) and by other models, compared with Fig. 2b: how
# I(L/2; L) and its exponent change as models improve.
#   PRESET=smoke  SmolLM2-135M, 8 documents of books and of Wikipedia to L = 128                 2 CPU cores, 3 minutes
#   PRESET=cpu    SmolLM2-135M, Gemma 3 270M, Qwen2.5-Coder 0.5B and 1.5B on 38 texts, two of    2 CPU cores, 5 hours; 9 GB
#                 them on Wikipedia, to L = 2048; Qwen 0.5B on twelve books to L = 8192
#                 (committed; default)
#   PRESET=paper  Llama 3.1 405B on Wikipedia, DeepSeek V3 Base on PG19; 1,024 documents each    8 (16) × H100, hours
# Backend, precision and documents per text of each preset are in PRESETS of score_documents.py.
# The run of Fig. 2b is one of the lines: fig2b.sh with the same PRESET reuses or makes it. With OUT alone, everything
# is scored again, and both figures go into OUT.
# Your own models, hub ids or files, on your own corpus (the 38 texts of the sample if not given), up to L = 2048:
#     MODELS="HuggingFaceTB/SmolLM2-135M Qwen/Qwen3-0.6B-Base" CORPUS=… OUT=results/mine bash measure_mutual_info/figB1.sh \
#         [flags of score_documents.py]
set -euo pipefail
cd "$(dirname "$0")/.."
. measure_mutual_info/_bipartite.sh
begin "smoke cpu paper" MODELS CORPUS PREPARE_FLAGS OUT

# grid: FOLDER of the results | CORPUS | L_max | documents | PRESET of score_documents.py | MODELS
own="all | $PRESET"
case $PRESET in
    smoke)
        own="8 | smoke"
        grid="books | four_books | 128 | 8 | smoke |
            wikipedia | wikipedia | 128 | 8 | smoke | $smollm2"
        ;;
    cpu)
        own="all | cpu-series"
        grid="books | books | 2048 | all | cpu-series | $gemma $qwen_small $qwen_large
            wikipedia | wikipedia | 2048 | 40 | cpu-single | $smollm2 $qwen_small
            books_8192 | twelve_books | 8192 | all | cpu-single | $qwen_small"
        ;;
    paper)
        grid="wikipedia | all_wikipedia | 2048 | 1024 | paper | meta-llama/Llama-3.1-405B-FP8
            books | pg19 | 2048 | 1024 | paper-deepseek | deepseek-ai/DeepSeek-V3-Base"
        ;;
esac
# For each kind of text a name and patterns of books.
kinds_of_text="whole_books books/* more_books/[!s]* more_books/sense_*
addresses */state_of_the_union/*"
if [ -n "${MODELS:-}${CORPUS:-}${PREPARE_FLAGS:-}" ]; then
    own_needs_out "MODELS or a CORPUS"
    top=$OUT
    grid="own | ${CORPUS:-books} | 2048 | $own | ${MODELS:-$smollm2}"
else
    results=${OUT:-$results}
    top=$results/figB1
    OUT=$results/fig2b bash measure_mutual_info/fig2b.sh "$@"
fi

compared=() drawn=() kinds=()
while IFS='|' read -r folder on L_max n_documents scoring models; do
    read -r folder on L_max n_documents scoring <<< "$folder $on $L_max $n_documents $scoring"
    named "$on"
    prepare_flags+=" ${PREPARE_FLAGS:-}" runs=()
    if [ "$folder" = books ]; then runs=("$results/fig2b"); fi # the first model of the series
    for model in $models; do
        tokenizer=$model
        # Qwen 0.5B and 1.5B share a tokenizer, and so the documents: their differences are paired by document.
        if [ "$folder:$model" = "books:$qwen_large" ]; then tokenizer=$qwen_small; fi
        documents=data/documents/${on}_${L_max}_$(short "$tokenizer") out=$top/$folder/$(short "$model")
        if [ "$folder" = own ]; then documents=$top/documents_$(short "$model"); fi
        measure "$scoring" "$@"
        runs+=("$out")
    done
    "$python" measure_mutual_info/compare_models.py --scores "${runs[@]/%//scores.csv}" --out "$top/$folder"
    case $PRESET:$folder in
        cpu:books) # of the 38 texts, those that PG19 could have, and the others
            while read -ra words; do
                kind=${words[0]}
                "$python" measure_mutual_info/compare_models.py --scores "${runs[@]/%//scores.csv}" \
                    --books "${words[@]:1}" --name "${kind//_/ }" --out "$top/$kind"
                kinds+=("$top/$kind/models.csv")
            done <<< "$kinds_of_text"
            ;;
        cpu:books_8192) continue ;; # one model
        *) kinds+=("$top/$folder/models.csv") ;;
    esac
    compared+=("$top/$folder/models.csv") drawn+=("${runs[@]}")
done <<< "$grid"
"$python" plots/models.py --figure B.1 --compared "${compared[@]}" --results "${drawn[@]}" --out "$top/figB1"
"$python" plots/models.py --figure exponent --compared "${kinds[@]}" --out "$top/exponent"
