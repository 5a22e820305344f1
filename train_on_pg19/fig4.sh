#!/usr/bin/env bash
# Fig. 4: NLL of models trained on books, position by position, at the longer of two lengths (Fig. G.9: figG9.sh).
#   PRESET=smoke  L = 256 bytes, two small models, one seed, six books                                2 cores, a minute
#   PRESET=cpu    L = 4096 bytes, 38 texts, a transformer and Mamba2 in two sizes, the small ones     2 cores, an hour
#                 with three seeds (the committed results; default)
#   PRESET=gpu    the same with a larger size and 5 epochs                                            one GPU
#   PRESET=paper  L = 8192 tokens of GPT-NeoX, PG19, the six models of Table F.2 one after the other  weeks of one GPU
# Models, seeds and corpora of each preset stand in _books.sh (inputs), with L = 256, 4096, 8192 of the last line.
# Epochs, batch, learning rate and the share held out of each preset stand at the top of train.py (PRESETS).
# Your own: MODELS="gpt2 mamba-130m" SEEDS="0 1" CORPUS=… TOKENIZER=… OUT=results/mine bash train_on_pg19/fig4.sh [flags
# of train.py], and PREPARE_FLAGS for prepare_dataset.py. WORKERS=4: four runs at a time. To spread one run over several
# GPUs start train.py by torchrun, see there. A killed run goes on by the same command.
set -euo pipefail
cd "$(dirname "$0")/.."
. train_on_pg19/_books.sh
begin MODELS SEEDS CORPUS TOKENIZER PREPARE_FLAGS WORKERS OUT

inputs fig4 256 4096 8192
curves fig4 "$@"
