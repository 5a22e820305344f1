# Sourced by fig4.sh and figG9.sh: models trained on books, from the corpus to the curves, each step a file to open.

. common/environment.sh

# inputs FIGURE SMOKE CPU PAPER: of the preset, with its length of three; gpu takes that of cpu. Sets grid, a run for each
# model and seed in lines "SEEDS | MODELS"; n_documents, held out, on which they are compared; pairs, whose gap is drawn.
inputs() {
    local small="gpt_neox-mini-small mamba2-mini-small" medium="gpt_neox-mini-medium mamba2-mini-medium"
    corpus='data/sample/*books/**/*.txt' tokenizer=bytes prepare_flags="--source books" workers=2 threads=1
    pairs="gpt_neox-mini-small:mamba2-mini-small" out=results/$PRESET/$1 L=$3 n_documents=400
    case $PRESET in
        smoke)
            L=$2 n_documents=16 grid="0 | $small"
            prepare_flags="--source books --max-books 6 --max-documents-per-book 20"
            ;;
        cpu) # the first seed of all models, then more of the small ones
            out=results/$1 pairs+=" gpt_neox-mini-medium:mamba2-mini-medium"
            grid="0 | $small $medium
                1 2 | $small"
            ;;
        gpu) # one size more
            workers=4 grid="0 1 2 | $small $medium gpt_neox-mini-large mamba2-mini-large"
            pairs+=" gpt_neox-mini-medium:mamba2-mini-medium gpt_neox-mini-large:mamba2-mini-large"
            ;;
        paper)
            L=$4 n_documents=10000 workers=1 threads=16
            grid="0 | gpt2 gpt2-medium gpt2-large mamba-130m mamba-370m mamba-790m"
            pairs="gpt2:mamba-130m gpt2-medium:mamba-370m gpt2-large:mamba-790m"
            corpus=emozilla/pg19 tokenizer=EleutherAI/gpt-neox-20b prepare_flags="--source pg19 --streaming"
            ;;
        *) echo "error: PRESET=$PRESET: choose smoke, cpu, gpu or paper" >&2 && exit 2 ;;
    esac
}

# curves FIGURE [flags of train.py]: from the corpus to the pictures in $out, with what `inputs` has set. MODELS, SEEDS,
# CORPUS and TOKENIZER of the environment replace those of the preset; then, and with flags of one's own, everything goes
# to $OUT.
curves() {
    local figure=$1 list models documents store folders=() model seed
    shift
    if [ "$PRESET" = paper ] && [ -z "${MODELS:-}" ]; then mamba_kernels; fi
    list=$(jobs <<< "$grid")
    if [ -n "${MODELS:-}${SEEDS:-}${CORPUS:-}${TOKENIZER:-}" ] || [ $# -gt 0 ]; then
        out=${OUT:?"set OUT, e.g. OUT=results/mine: with MODELS, SEEDS, CORPUS, TOKENIZER or flags of your own results go there"}
    fi
    if [ -n "${MODELS:-}${SEEDS:-}" ]; then
        models=${MODELS:-$(cut -d' ' -f1 <<< "$list" | sort -u)} pairs=""
        list=$(jobs <<< "${SEEDS:-0} | ${models//$'\n'/ }")
    fi
    if [ "$(cut -d' ' -f1 <<< "$list" | sort -u | wc -l)" -lt 2 ]; then
        echo "error: MODELS=$MODELS: a gap takes two models or more" >&2
        exit 2
    fi
    if [ -n "${CORPUS:-}" ]; then prepare_flags=""; fi
    out=${OUT:-$out} corpus=${CORPUS:-$corpus} tokenizer=${TOKENIZER:-$tokenizer}
    prepare_flags=${PREPARE_FLAGS:-$prepare_flags} workers=${WORKERS:-$workers}
    documents=data/documents/${out//\//_}_$L runs=data/book_runs/${out#results/} store=data/nll/${out#results/}
    if [ -n "${OUT:-}" ]; then documents=$out/documents runs=$out/runs store=$out/nll; fi
    if [ -z "${CORPUS:-}" ] && [ "$PRESET" != paper ]; then
        "$python" measure_mutual_info/fetch_sample.py --parts books more_books
    fi
    # Documents of 1.2 L, of which a sequence is the first L tokens.
    # shellcheck disable=SC2086  # flags are words
    "$python" measure_mutual_info/prepare_dataset.py --corpus "$corpus" --tokenizer "$tokenizer" \
        --min-tokens $((L * 6 / 5 + 1)) --out "$documents" $prepare_flags
    flags=$*
    export python threads documents runs L flags PRESET
    echo "$(wc -l <<< "$list") runs, $workers at a time, into $runs"
    at_a_time "$workers" train <<< "$list"
    while read -r model seed; do folders+=("$runs/${model}_$seed"); done <<< "$list"
    # shellcheck disable=SC2086
    "$python" train_on_pg19/evaluate.py --models "${folders[@]}" --documents "$documents" --L "$L" --store "$store" \
        --out "$out" --n-documents "$n_documents" ${pairs:+--pairs $pairs}
    "$python" plots/books.py --results "$out" --out "$out/$figure"
}

# jobs: a line for each run, "MODEL SEED", of lines "SEEDS | MODELS".
jobs() {
    local seeds models seed model
    while IFS='|' read -r seeds models; do
        for seed in $seeds; do
            for model in $models; do echo "$model $seed"; done
        done
    done
}

train() { # MODEL SEED
    # shellcheck disable=SC2086
    logged "$1, L = $L, seed $2" "$runs/$1_$2" train_on_pg19/train.py --model "$1" --L "$L" --seed "$2" \
        --documents "$documents" --preset "$PRESET" $flags
}
export -f train
