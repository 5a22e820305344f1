#!/usr/bin/env bash
# Fig. G.9: NLL of models trained on books, position by position, at the shorter of two lengths; as Fig. 4, see fig4.sh.
#   PRESET=smoke  L = 128 bytes                                                                       2 cores, a minute
#   PRESET=cpu    L = 512 bytes, and a small GPT2 beside the others (the committed results; default)  2 cores, an hour
#   PRESET=paper  L = 4096 tokens                                                                     weeks of one GPU
set -euo pipefail
cd "$(dirname "$0")/.."
. train_on_pg19/_books.sh
begin MODELS SEEDS CORPUS TOKENIZER PREPARE_FLAGS WORKERS OUT

inputs figG9 128 512 4096
if [ "$PRESET" = cpu ]; then
    grid+="
        0 1 2 | gpt2-mini-small"
fi
curves figG9 "$@"
