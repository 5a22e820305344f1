#!/usr/bin/env bash
# Fig. 2c: two-point mutual information I(W_i; W_{i+d}) of books against the distance d, less its plateau C, with the
# fitted exponent α.
#   PRESET=smoke  two of the sample books, d = 1 … 256                                        1 CPU core, half a minute
#   PRESET=desk   the four sample books, d = 1 … 8192, fitted to 256: farther out Î − C does  1 CPU core, half a minute
#                 not stand out of the noise (the committed results; default)
#   PRESET=paper  PG19 with the tokens of Llama 3.1, d = 1 … 8192, fitted to 4096             16 CPU cores, hours
# The paper's number: 1.10 · d^−0.91. At the desk the tokens are parts of words: expect a steeper fall within words, up to
# d = 8, and a slower one beyond, which no single power law describes.
# Your own: CORPUS=… TOKENIZER=… OUT=results/mine bash measure_mutual_info/fig2c.sh [flags of count_ngrams.py], and
# PREPARE_FLAGS="--min-tokens 1000 …" for prepare_dataset.py.
set -euo pipefail
cd "$(dirname "$0")/.."
. measure_mutual_info/two_point.sh

runs
corpus=data/sample/books tokenizer=$sample_tokenizer prepare_flags="--source books" d_max=8192 d_fit=256
documents=data/documents/books_bpe384 count_flags=()
case ${PRESET:-desk} in
    smoke)
        d_max=256
        documents=data/documents/books_bpe384_2 prepare_flags="--source books --max-books 2"
        ;;
    paper)
        corpus=emozilla/pg19 tokenizer=meta-llama/Llama-3.1-8B documents=data/documents/pg19_llama_books
        prepare_flags="--source pg19 --streaming --min-book-words 5000" d_fit=4096
        count_flags=(--processes 16 --memory-gb 32)
        ;;
esac
out=$books
if [ -n "${CORPUS:-}${TOKENIZER:-}" ]; then # one's own: everything goes to a folder of its own
    out=${OUT:?"set OUT, e.g. OUT=results/mine: with a CORPUS or TOKENIZER of your own the results go there"}
    documents=$out/documents
fi
if [ -n "${CORPUS:-}" ]; then prepare_flags=""; fi
corpus=${CORPUS:-$corpus} tokenizer=${TOKENIZER:-$tokenizer} out=${OUT:-$out}

measure "$out" "$documents" "$corpus" "$tokenizer" "$d_max" "$d_fit" "${PREPARE_FLAGS:-$prepare_flags}" \
    ${count_flags[@]+"${count_flags[@]}"} "$@"
if [ "${PRESET:-desk}" != paper ] && [ "$out" = "$books" ]; then # the null: shuffled, the same tokens give Î − C = 0
    measure "$out/shuffled" "${documents}_shuffled" "$corpus" "$tokenizer" "$d_max" "$d_fit" \
        "$prepare_flags --shuffle-seed 0" "$@"
fi
$python plots/fig2c.py --results "$out" --out "$out/fig2c"
