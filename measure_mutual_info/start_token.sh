#!/usr/bin/env bash
# What the token in front of every text does to I(L/2; L): SmolLM2-135M with its tokenizer's BOS and with <|endoftext|>.
#   PRESET=smoke  8 documents of the sample books to L = 16                                   2 CPU cores, 1 minute
#   PRESET=cpu    all 126 documents of the sample books to L = 64 (committed; default)        2 CPU cores, 4 minutes
# Your own: MODEL=… CORPUS=… OTHER_START=<token> OUT=results/mine bash measure_mutual_info/start_token.sh [flags of
# score_documents.py], and PREPARE_FLAGS for prepare_dataset.py.
set -euo pipefail
cd "$(dirname "$0")/.."
. measure_mutual_info/_bipartite.sh
begin MODEL CORPUS PREPARE_FLAGS OUT

corpus=data/sample/books model=$sample_model prepare_flags="--source books" other=${OTHER_START:-"<|endoftext|>"}
case $PRESET in
    smoke) out=results/smoke/start_token L_max=16 n_documents=(--n-documents 8) length=128 ;;
    cpu) out=results/start_token L_max=64 n_documents=() length=2048 ;; # the documents of Fig. 2b, their first 64 tokens
    *) echo "error: PRESET=$PRESET: choose smoke or cpu" >&2 && exit 2 ;;
esac

documents=data/documents/$(basename "$corpus")_$length
if [ -n "${CORPUS:-}${MODEL:-}" ]; then # one's own: everything goes to a folder of its own
    out=${OUT:?"set OUT, e.g. OUT=results/mine: with a CORPUS or MODEL of your own the results go there"}
    documents=$out/documents
else
    "$python" measure_mutual_info/fetch_sample.py
fi
if [ -n "${CORPUS:-}" ]; then prepare_flags=""; fi
corpus=${CORPUS:-$corpus} model=${MODEL:-$model} out=${OUT:-$out} prepare_flags=${PREPARE_FLAGS:-$prepare_flags}

# shellcheck disable=SC2086  # flags are words
"$python" measure_mutual_info/prepare_dataset.py --corpus "$corpus" --tokenizer "$model" --min-tokens "$length" \
    --out "$documents" $prepare_flags
for start in tokenizer other; do
    bos=()
    [ "$start" = tokenizer ] || bos=(--bos "$other")
    "$python" measure_mutual_info/score_documents.py --documents "$documents" --model "$model" --L-max "$L_max" \
        ${n_documents[@]+"${n_documents[@]}"} ${bos[@]+"${bos[@]}"} --preset "$PRESET" --out "$out/$start/scores.csv" "$@"
    "$python" measure_mutual_info/estimate_bipartite.py --scores "$out/$start/scores.csv" --out "$out/$start"
done
"$python" measure_mutual_info/compare_start_tokens.py --scores "$out"/{tokenizer,other}/scores.csv --out "$out"
