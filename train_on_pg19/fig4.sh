#!/usr/bin/env bash
# Fig. 4: loss of models trained on books, position by position, at the longer of two lengths (Fig. G.9: figG9.sh).
#   PRESET=smoke  L = 256 tokens, two small models, one seed                                          2 cores, 2 minutes
#   PRESET=cpu    L = 2048 tokens of a BPE, 38 texts, a small transformer and Mamba2 with three       2 cores, 7 hours
#                 seeds and a larger pair with one (the committed results; default)
#   PRESET=gpu    three sizes, three seeds, and four times the tokens per step                        one GPU
#   PRESET=paper  L = 8192 tokens of GPT-NeoX, PG19, the six models of Table F.2 one after the other  weeks of one GPU
# With PRESET=cpu, runs whose losses are committed are not trained: everything takes 6 minutes.
# Models and held-out books of each preset are in _books.sh; L and the seeds of PRESET=cpu are at the end of this file.
# Steps, batch and learning rate of each preset are in PRESETS of train.py.
# SPLIT=2: the same with other books held out, into results/fig4_split2.
# Your own: MODELS="gpt2 mamba-130m" SEEDS="0 1" CORPUS=… TOKENIZER=… OUT=results/mine bash train_on_pg19/fig4.sh [flags
# of train.py], and PREPARE_FLAGS for prepare_dataset.py. WORKERS=4: four runs at a time. To spread one run over several
# GPUs, start train.py by torchrun, see train.py. The same command continues a killed run.
set -euo pipefail
cd "$(dirname "$0")/.."
. train_on_pg19/_books.sh
begin "smoke cpu gpu paper" MODELS SEEDS CORPUS TOKENIZER PREPARE_FLAGS WORKERS SPLIT OUT

inputs fig4 256 2048 8192 "0 1 2" "1"
curves fig4 "$@"
