#!/usr/bin/env bash
# Fig. B.4: two-point mutual information of books (the run of Fig. 2c) and of Wikipedia, side by side.
#   PRESET=smoke  20 articles of the Wikipedia excerpt, d = 1 … 256                           1 CPU core, half a minute
#   PRESET=cpu    the articles of 2,048 tokens and more, d = 1 … 1024, fitted to 256          1 CPU core, 1 minute
#                 (the committed results; default)
#   PRESET=paper  all of Wikipedia, tokens of Llama 3.1, d = 1 … 256                          16 CPU cores, hours
# Reuses the run of fig2c.sh with the same PRESET, or makes it. With OUT, both runs and the figure are in that folder.
# Flags go to count_ngrams.py: OUT=results/mine bash measure_mutual_info/figB4.sh --equal-pairs
set -euo pipefail
cd "$(dirname "$0")/.."
. measure_mutual_info/_two_point.sh
begin "smoke cpu paper" OUT

results=${OUT:-$results}
runs "$@"
named wikipedia
tokenizer=data/tokenizers/wikipedia_bpe384 d_max=256 d_fit=256
case $PRESET in
    smoke) documents=wikipedia_bpe384_20 prepare_flags+=" --max-books 20" ;;
    cpu) documents=wikipedia_bpe384 d_max=1024 ;;
    paper)
        named all_wikipedia
        tokenizer=meta-llama/Llama-3.1-8B documents=wikipedia_llama_books prepare_flags+=" --min-tokens 1024"
        ;;
esac

if [ $# -gt 0 ] || [ ! -f "$books/two_point.csv" ]; then OUT=$books bash measure_mutual_info/fig2c.sh "$@"; fi
measure "$wikipedia" "data/documents/$documents" "$tokenizer" "$@"
"$python" plots/two_point.py --figure B.4 --results "$books" "$wikipedia" --out "$results/figB4/figB4"
"$python" plots/two_point.py --figure ranges --results "$books" "$wikipedia" --out "$results/figB4/ranges"
