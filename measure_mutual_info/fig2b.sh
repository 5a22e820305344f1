#!/usr/bin/env bash
# Fig. 2b: bipartite mutual information I(L/2; L) of books against L, direct and vCLUB estimators, with fitted exponents;
# and sweep.png, β in every window of lengths.
#   PRESET=smoke  SmolLM2-135M, 8 documents of the sample books to L = 128                    2 CPU cores, 1 minute
#   PRESET=demo   the same, 32 documents to L = 1024                                          2 CPU cores, 5 to 8 minutes
#   PRESET=cpu    the same, all 126 documents to L = 2048 (the committed results; default)    2 CPU cores, 1 hour
#   PRESET=paper  Llama 3.1 405B in FP8, 1,024 documents of PG19 to L = 2048                  8 × H100 80 GB, hours
# Backend, precision and batch of each preset stand at the top of score_documents.py (PRESETS).
# The paper's numbers: direct 2.27 · L^0.76, vCLUB 3.26 · L^0.71.
# Your own: MODEL=… CORPUS=… OUT=results/mine bash measure_mutual_info/fig2b.sh [flags of score_documents.py], and
# PREPARE_FLAGS="--boundaries none …" for prepare_dataset.py.
set -euo pipefail
cd "$(dirname "$0")/.."
. measure_mutual_info/_bipartite.sh
begin MODEL CORPUS PREPARE_FLAGS OUT

corpus=data/sample/books model=$sample_model prepare_flags="--source books"
case $PRESET in
    smoke) out=results/smoke/fig2b L_max=128 n_documents=8 ;;
    demo) out=results/demo L_max=1024 n_documents=32 ;;
    cpu) out=results/fig2b L_max=2048 n_documents=all ;;
    paper)
        out=results/paper/fig2b L_max=2048 n_documents=1024
        corpus=emozilla/pg19 model=meta-llama/Llama-3.1-405B-FP8
        prepare_flags="--source pg19 --streaming --min-book-words 5000"
        ;;
    *) echo "error: PRESET=$PRESET: choose smoke, demo, cpu or paper" >&2 && exit 2 ;;
esac

documents=data/documents/$(basename "$corpus")_$L_max
take_own
measure "$PRESET" "$@"
"$python" plots/bipartite.py --figure 2b --results "$out" --out "$out/fig2b"
"$python" plots/bipartite.py --figure sweep --results "$out" --out "$out/sweep"
