#!/usr/bin/env bash
# How the start token in front of every text changes I(L/2; L): the models of the series, each with the start token of
# its tokenizer and with another one.
#   PRESET=smoke  SmolLM2-135M, 8 documents of four books to L = 16                           2 CPU cores, 1 minute
#   PRESET=cpu    four models, 38 texts, three documents each, to L = 64 (committed;           2 CPU cores, 40 minutes
#                 default)
# Your own: MODEL=… CORPUS=… OTHER_START=<token> OUT=results/mine bash measure_mutual_info/start_token.sh [flags of
# score_documents.py], and PREPARE_FLAGS for prepare_dataset.py. MODEL is SmolLM2-135M if it is not set.
set -euo pipefail
cd "$(dirname "$0")/.."
. measure_mutual_info/_bipartite.sh
begin "smoke cpu" MODEL CORPUS PREPARE_FLAGS OTHER_START OUT

n_documents=all out=$results/start_token
case $PRESET in
    smoke) on=four_books L_max=16 n_documents=8 length=128 scoring=smoke ;;
    cpu) on=books L_max=64 length=2048 scoring=cpu-series ;; # the documents of Figs. 2b, B.1
esac

# compare OTHER [FLAG ...]: compares the tokenizer's start token with OTHER; flags are those of score_documents.py.
compare() {
    local other=$1 start
    prepare "$length"
    score "$out/tokenizer" "$scoring" "${@:2}"
    score "$out/other" "$scoring" --bos "$other" "${@:2}"
    for start in tokenizer other; do
        "$python" measure_mutual_info/estimate_bipartite.py --scores "$out/$start/scores.csv" --out "$out/$start"
    done
    "$python" measure_mutual_info/compare_models.py --scores "$out"/{tokenizer,other}/scores.csv --out "$out"
}

named "$on"
if [ -n "${OTHER_START:-}" ]; then own_needs_out "an OTHER_START"; fi
if [ -n "${MODEL:-}${CORPUS:-}${PREPARE_FLAGS:-}${OTHER_START:-}" ] || [ "$PRESET" = smoke ]; then
    model=$smollm2 documents=data/documents/${on}_${length}_$(short "$smollm2")
    take_own
    compare "${OTHER_START:-"<|endoftext|>"}" "$@"
    exit
fi
top=${OUT:-$out}
while read -r model other; do
    documents=data/documents/${on}_${length}_$(short "$model") out=$top/$(short "$model")
    compare "$other" "$@"
done << END
$smollm2 <|endoftext|>
$gemma <eos>
$qwen_small <|im_start|>
$qwen_large <|im_start|>
END
