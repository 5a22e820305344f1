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

case $PRESET in
    smoke) out=results/smoke/start_token L_max=16 n_documents=8 length=128 ;;
    cpu) out=results/start_token L_max=64 n_documents=all length=2048 ;; # the documents of Fig. 2b, their first 64 tokens
    *) echo "error: PRESET=$PRESET: choose smoke or cpu" >&2 && exit 2 ;;
esac
corpus=data/sample/books model=$sample_model prepare_flags="--source books"
documents=data/documents/books_$length

take_own
prepare "$length"
score "$out/tokenizer" "$PRESET" "$@"
score "$out/other" "$PRESET" --bos "${OTHER_START:-"<|endoftext|>"}" "$@"
for start in tokenizer other; do
    "$python" measure_mutual_info/estimate_bipartite.py --scores "$out/$start/scores.csv" --out "$out/$start"
done
"$python" measure_mutual_info/compare_start_tokens.py --scores "$out"/{tokenizer,other}/scores.csv --out "$out"
