#!/usr/bin/env bash
# Fig. 4: NLL of models trained on books, position by position, at the longer of two lengths (Fig. G.9: figG9.sh).
#   PRESET=smoke  L = 256 bytes, two small models, one seed, six books                                2 cores, a minute
#   PRESET=cpu    L = 4096 bytes, 38 texts, a transformer and Mamba2 in two sizes, the small ones     2 cores, an hour
#                 with three seeds (the committed results; default)
#   PRESET=gpu    the same with a larger size and 5 epochs                                            one GPU
#   PRESET=paper  L = 8192 tokens of GPT-NeoX, PG19, the six models of Table F.2 one after the other  weeks of one GPU
# Epochs, batch, learning rate and the share held out of each preset stand at the top of train.py (PRESETS).
# Your own: MODELS="gpt2 mamba-130m" SEEDS="0 1" CORPUS=… TOKENIZER=… OUT=results/mine bash train_on_pg19/fig4.sh [flags
# of train.py], and PREPARE_FLAGS for prepare_dataset.py. WORKERS=4: four runs at a time. To spread one run over several
# GPUs start train.py by torchrun, see there. A killed run goes on by the same command.
set -euo pipefail
cd "$(dirname "$0")/.."
. train_on_pg19/_books.sh
begin MODELS SEEDS CORPUS TOKENIZER PREPARE_FLAGS WORKERS OUT

# grid: SEEDS | MODELS, a run for each. n_documents: held out, on which they are compared; pairs: whose gap is drawn.
small="gpt_neox-mini-small mamba2-mini-small" medium="gpt_neox-mini-medium mamba2-mini-medium"
corpus='data/sample/*books/**/*.txt' tokenizer=bytes prepare_flags="--source books" workers=2 threads=1
pairs="gpt_neox-mini-small:mamba2-mini-small"
case $PRESET in
    smoke)
        out=results/smoke/fig4 L=256 n_documents=16 grid="0 | $small"
        prepare_flags="--source books --max-books 6 --max-documents-per-book 20"
        ;;
    cpu) # the first seed of all models, then more of the small ones
        out=results/fig4 L=4096 n_documents=400
        grid="0 | $small $medium
            1 2 | $small"
        pairs+=" gpt_neox-mini-medium:mamba2-mini-medium"
        ;;
    gpu) # one size more
        out=results/gpu/fig4 L=4096 n_documents=400 workers=4
        grid="0 1 2 | $small gpt_neox-mini-medium gpt_neox-mini-large mamba2-mini-medium mamba2-mini-large"
        pairs+=" gpt_neox-mini-medium:mamba2-mini-medium gpt_neox-mini-large:mamba2-mini-large"
        ;;
    paper)
        out=results/paper/fig4 L=8192 n_documents=10000 workers=1 threads=16
        grid="0 | gpt2 gpt2-medium gpt2-large mamba-130m mamba-370m mamba-790m"
        pairs="gpt2:mamba-130m gpt2-medium:mamba-370m gpt2-large:mamba-790m"
        corpus=emozilla/pg19 tokenizer=EleutherAI/gpt-neox-20b prepare_flags="--source pg19 --streaming"
        ;;
    *) echo "error: PRESET=$PRESET: choose smoke, cpu, gpu or paper" >&2 && exit 2 ;;
esac

curves fig4 "$@"
