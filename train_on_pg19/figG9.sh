#!/usr/bin/env bash
# Fig. G.9: loss of models trained on books, position by position, at the shorter of two lengths; see fig4.sh.
#   PRESET=smoke  L = 128 tokens                                                                      2 cores, 2 minutes
#   PRESET=cpu    L = 512 tokens (the committed results; default)                                     2 cores, 2.5 hours
#   PRESET=gpu    L = 512 tokens, three sizes, three seeds                                           one GPU
#   PRESET=paper  L = 4096 tokens                                                                     weeks of one GPU
# MODELS, SEEDS, CORPUS, TOKENIZER, PREPARE_FLAGS, WORKERS, SPLIT, OUT and flags: as for fig4.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
. train_on_pg19/_books.sh
begin "smoke cpu gpu paper" MODELS SEEDS CORPUS TOKENIZER PREPARE_FLAGS WORKERS SPLIT OUT

inputs figG9 128 512 4096 "0 1"
curves figG9 "$@"
