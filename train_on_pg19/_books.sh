# Sourced by fig4.sh and figG9.sh: models trained on books, from the corpus to the curves, each step a file to open.

. common/environment.sh

# jobs "SEED …" MODEL …: a line for each run
jobs() {
    local seeds=$1 seed model
    shift
    for seed in $seeds; do
        for model in "$@"; do echo "$model $seed"; done
    done
}

# preset SMOKE_L DESK_L PAPER_L: sets $L and what curves needs.
preset() {
    local small="gpt_neox-mini-small mamba2-mini-small"
    corpus='data/sample/*books/**/*.txt' tokenizer=bytes prepare_flags="--source books" workers=2 threads=1
    pairs="gpt_neox-mini-small:mamba2-mini-small" evaluate_flags=""
    # shellcheck disable=SC2086  # models are words
    case ${PRESET:-cpu} in
        smoke)
            L=$1 results=results/smoke list=$(jobs 0 $small) evaluate_flags="--n-documents 16"
            prepare_flags+=" --max-books 6 --max-documents-per-book 20"
            train_flags="--epochs 1 --batch-tokens $((4 * L)) --learning-rate 5e-3 --warmup 2 --log-every 5"
            train_flags+=" --checkpoint-every 10 --held-out 0.34"
            ;;
        cpu)
            L=$2 results=results evaluate_flags="--n-documents 400"
            # The first seed of all models, then more of the small ones.
            list=$(jobs 0 $small gpt_neox-mini-medium mamba2-mini-medium && jobs "1 2" $small)
            pairs+=" gpt_neox-mini-medium:mamba2-mini-medium"
            # Few tokens a step, and so many steps, which is what a transformer lacks (PRESET=cpu).
            train_flags="--epochs 0.5 --batch-tokens $((L > 2048 ? L : 2048)) --learning-rate 5e-3 --warmup 100"
            train_flags+=" --log-every 50 --checkpoint-every 250 --held-out 0.2"
            ;;
        gpu) # the series of PRESET=cpu with its larger size, on one GPU
            L=$2 results=results/gpu workers=4 evaluate_flags="--n-documents 400"
            list=$(jobs "0 1 2" $small gpt_neox-mini-{medium,large} mamba2-mini-{medium,large})
            pairs+=" gpt_neox-mini-medium:mamba2-mini-medium gpt_neox-mini-large:mamba2-mini-large"
            train_flags="--epochs 5 --batch-tokens 8192 --learning-rate 3e-3 --warmup 300 --held-out 0.2"
            train_flags+=" --log-every 50 --checkpoint-every 500"
            ;;
        paper)
            L=$3 results=results/paper workers=1 threads=16 train_flags="" evaluate_flags="--n-documents 10000"
            list=$(jobs 0 gpt2 gpt2-medium gpt2-large mamba-130m mamba-370m mamba-790m)
            pairs="gpt2:mamba-130m gpt2-medium:mamba-370m gpt2-large:mamba-790m"
            corpus=emozilla/pg19 tokenizer=EleutherAI/gpt-neox-20b prepare_flags="--source pg19 --streaming"
            ;;
        *) echo "error: PRESET=$PRESET: choose smoke, cpu, gpu or paper" >&2 && exit 2 ;;
    esac
}

# curves FIGURE [flags of train.py]: from the corpus to the pictures in results/…/FIGURE. MODELS, SEEDS, CORPUS and
# TOKENIZER of the environment replace those of the preset; then, and with flags of one's own, everything goes to $OUT.
curves() {
    local figure=$1 out documents store folders=() model seed flag
    shift
    for flag in "$@"; do
        case $flag in --model* | --L | --L=* | --seed* | --documents* | --out*)
            echo "error: $flag is set here for every run: use MODELS, SEEDS, CORPUS and OUT in front of the command" >&2
            exit 2
            ;;
        esac
    done
    if [ "${PRESET:-cpu}" = paper ] && [ -z "${MODELS:-}" ]; then mamba_kernels; fi
    out=$results/$figure
    if [ -n "${MODELS:-}${SEEDS:-}${CORPUS:-}${TOKENIZER:-}" ] || [ $# -gt 0 ]; then
        out=${OUT:?"set OUT, e.g. OUT=results/mine: with MODELS, SEEDS, CORPUS, TOKENIZER or flags of your own results go there"}
    fi
    # shellcheck disable=SC2086
    if [ -n "${MODELS:-}${SEEDS:-}" ]; then
        list=$(jobs "${SEEDS:-0}" ${MODELS:-$(cut -d' ' -f1 <<< "$list" | sort -u)}) pairs=""
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
    if [ -z "${CORPUS:-}" ] && [ "${PRESET:-cpu}" != paper ]; then
        "$python" measure_mutual_info/fetch_sample.py --parts books more_books
    fi
    # Documents of 1.2 L, of which a sequence is the first L tokens.
    # shellcheck disable=SC2086  # flags are words
    "$python" measure_mutual_info/prepare_dataset.py --corpus "$corpus" --tokenizer "$tokenizer" \
        --min-tokens $((L * 6 / 5 + 1)) --out "$documents" $prepare_flags
    settings="$train_flags $*"
    export python threads documents runs L settings
    mkdir -p "$runs"
    echo "$(wc -l <<< "$list") runs, $workers at a time, into $runs"
    at_a_time "$workers" train <<< "$list"
    while read -r model seed; do folders+=("$runs/${model}_$seed"); done <<< "$list"
    # shellcheck disable=SC2086
    "$python" train_on_pg19/evaluate.py --models "${folders[@]}" --documents "$documents" --L "$L" --store "$store" \
        --out "$out" $evaluate_flags
    # shellcheck disable=SC2086
    "$python" train_on_pg19/compare.py --store "$store" --out "$out" ${pairs:+--pairs $pairs}
    "$python" plots/books.py --results "$out" --out "$out/$figure"
}

train() { # MODEL SEED
    local folder=$runs/$1_$2
    # shellcheck disable=SC2086
    if OMP_NUM_THREADS=$threads "$python" train_on_pg19/train.py --model "$1" --L "$L" --seed "$2" \
        --documents "$documents" --out "$folder" $settings >> "$folder.txt" 2>&1; then
        echo "$1, L = $L, seed $2: $(tail -n 1 "$folder.txt")"
    else
        echo "error: $1, L = $L, seed $2, see $folder.txt: $(tail -n 1 "$folder.txt")" >&2
        return 255 # xargs begins no further run
    fi
}
export -f train
