#!/usr/bin/env bash
# Fig. G.9: NLL of models trained on books, position by position, at the shorter of two lengths; as Fig. 4, see fig4.sh.
#   PRESET=smoke  L = 128 bytes                                                                       2 cores, a minute
#   PRESET=cpu    L = 512 bytes, and a small GPT2 beside the others (the committed results; default)  2 cores, an hour
#   PRESET=paper  L = 4096 tokens                                                                     weeks of one GPU
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
        out=results/smoke/figG9 L=128 n_documents=16 grid="0 | $small"
        prepare_flags="--source books --max-books 6 --max-documents-per-book 20"
        ;;
    cpu) # the first seed of all models, then more of the small ones
        out=results/figG9 L=512 n_documents=400
        grid="0 | $small $medium
            1 2 | $small
            0 1 2 | gpt2-mini-small"
        pairs+=" gpt_neox-mini-medium:mamba2-mini-medium"
        ;;
    gpu) # one size more
        out=results/gpu/figG9 L=512 n_documents=400 workers=4
        grid="0 1 2 | $small gpt_neox-mini-medium gpt_neox-mini-large mamba2-mini-medium mamba2-mini-large"
        pairs+=" gpt_neox-mini-medium:mamba2-mini-medium gpt_neox-mini-large:mamba2-mini-large"
        ;;
    paper)
        out=results/paper/figG9 L=4096 n_documents=10000 workers=1 threads=16
        grid="0 | gpt2 gpt2-medium gpt2-large mamba-130m mamba-370m mamba-790m"
        pairs="gpt2:mamba-130m gpt2-medium:mamba-370m gpt2-large:mamba-790m"
        corpus=emozilla/pg19 tokenizer=EleutherAI/gpt-neox-20b prepare_flags="--source pg19 --streaming"
        ;;
    *) echo "error: PRESET=$PRESET: choose smoke, cpu, gpu or paper" >&2 && exit 2 ;;
esac

curves figG9 "$@"
