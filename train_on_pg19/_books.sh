# Sourced by fig4.sh, figG9.sh and pretrained.sh: models on books, from corpus to curves. Each step writes a file.

. common/environment.sh

# The held-out books: no model is trained on them or on other texts by their authors. SPLIT=2 takes the second list.
held_out_1="moby_dick alice 1801_thomas_jefferson 1825_john_quincy_adams 1837_martin_van_buren 1853_franklin_pierce
    1861_abraham_lincoln 1877_rutherford_b_hayes 1909_william_h_taft 1913_woodrow_wilson"
held_out_2="paradise_lost botchan 1809_james_madison 1841_john_tyler 1845_james_polk 1857_james_buchanan
    1865_andrew_johnson 1881_chester_a_arthur 1889_benjamin_harrison 1897_william_mc_kinley"
vocabulary=2048 # tokens of the BPE that is trained on the other books

# inputs FIGURE SMOKE CPU PAPER SEEDS [MEDIUM]: sets the inputs of the preset; its length L is SMOKE, CPU (for gpu, too)
# or PAPER; SEEDS are those of PRESET=cpu, and MEDIUM those of its larger pair of models.
# Among them are grid, lines "SEEDS | MODELS" with one run per model and seed; choice, flags for the held-out documents
# on which the models are compared; and pairs, the pairs of models whose gap is drawn.
inputs() {
    local small="gpt_neox-mini-small mamba2-mini-small" medium="gpt_neox-mini-medium mamba2-mini-medium"
    local large="gpt_neox-mini-large mamba2-mini-large"
    corpus=by_author tokenizer=bpe prepare_flags="--source books" workers=2 threads=1
    pairs=${small/ /:} out=$results/$1 L=$3
    choice="--max-documents-per-book 20"
    case $PRESET in
        smoke)
            L=$2 choice="--max-documents-per-book 2" grid="0 | $small"
            prepare_flags+=" --max-documents-per-book 20"
            ;;
        cpu)
            grid="$5 | $small"
            if [ -n "${6:-}" ]; then grid+=$'\n'"$6 | $medium" pairs+=" ${medium/ /:}"; fi
            ;;
        gpu) # one size more
            workers=4 pairs+=" gpt_neox-mini-small:mamba2-mini-small-state1 ${medium/ /:} ${large/ /:}"
            grid="0 1 2 | $small mamba2-mini-small-state1 $medium mamba2-mini-medium-state1 $large"
            ;;
        paper)
            L=$4 choice="--n-documents 10000" workers=1 threads=16
            grid="0 | gpt2 gpt2-medium gpt2-large mamba-130m mamba-370m mamba-790m"
            pairs="gpt2:mamba-130m gpt2-medium:mamba-370m gpt2-large:mamba-790m"
            corpus=emozilla/pg19 tokenizer=EleutherAI/gpt-neox-20b prepare_flags="--source pg19 --streaming"
            ;;
    esac
    if [ "${SPLIT:-1}" != 1 ]; then out+=_split$SPLIT; fi
}

# by_author FOLDER BOOK …: links the texts of the sample, the named ones in FOLDER/held_out, all others in FOLDER/train.
by_author() {
    local folder=$1 text name
    shift
    mkdir -p "$folder/train" "$folder/held_out"
    for text in data/sample/books/*.txt data/sample/more_books/*.txt data/sample/more_books/*/*.txt; do
        name=$(basename "$text" .txt)
        case " $* " in
            *" $name "*) ln -sf "$PWD/$text" "$folder/held_out/" ;;
            *) ln -sf "$PWD/$text" "$folder/train/" ;;
        esac
    done
}

# split_sample: fetches the sample's books and splits them by author; sets corpus.
split_sample() {
    local lists="held_out_${SPLIT:-1}" name
    if [ -z "${!lists:-}" ]; then echo "error: SPLIT=$SPLIT: choose 1 or 2" >&2 && exit 2; fi
    corpus=data/books_by_author
    if [ "${SPLIT:-1}" != 1 ]; then corpus+=_$SPLIT; fi
    "$python" measure_mutual_info/fetch_sample.py --parts books more_books
    # shellcheck disable=SC2086  # names are words
    by_author "$corpus" ${!lists}
}

# curves FIGURE [flags of train.py]: all steps from the corpus to the pictures in $out, with what `inputs` has set.
# MODELS, SEEDS, CORPUS and TOKENIZER of the environment replace those of the preset; with any of them, or with flags,
# everything goes to $OUT. With a custom CORPUS, a share of its books is held out (--held-out of train.py).
curves() {
    local figure=$1 list models documents runs losses=() model seed held_out=""
    shift
    if [ "$PRESET" = paper ] && [ -z "${MODELS:-}" ]; then mamba_kernels; fi
    list=$(run_list <<< "$grid")
    if [ -n "${MODELS:-}${SEEDS:-}${CORPUS:-}${TOKENIZER:-}" ] || [ $# -gt 0 ]; then
        own_needs_out "MODELS, SEEDS, CORPUS, TOKENIZER or flags"
    fi
    if [ -n "${MODELS:-}${SEEDS:-}" ]; then
        models=${MODELS:-$(cut -d' ' -f1 <<< "$list" | sort -u)} pairs=""
        list=$(run_list <<< "${SEEDS:-0} | ${models//$'\n'/ }")
    fi
    if [ "$(cut -d' ' -f1 <<< "$list" | sort -u | wc -l)" -lt 2 ]; then
        echo "error: MODELS=$MODELS: a gap needs two models or more" >&2
        exit 2
    fi
    if [ -n "${CORPUS:-}" ]; then corpus=$CORPUS prepare_flags="" tokenizer=${tokenizer/#bpe/bytes}; fi
    if [ "$corpus" = by_author ]; then
        split_sample
        tokenizer=data/tokenizers/$(basename "$corpus")_bpe$vocabulary held_out="held_out/*"
        "$python" measure_mutual_info/train_bpe.py --corpus "$corpus/train" --vocab-size "$vocabulary" --out "$tokenizer"
    elif [ -n "${SPLIT:-}" ]; then
        echo "error: SPLIT=$SPLIT: it chooses books of the sample, and the texts are those of $corpus: unset it" >&2
        exit 2
    fi
    out=${OUT:-$out} tokenizer=${TOKENIZER:-$tokenizer}
    prepare_flags+=" ${PREPARE_FLAGS:-}" workers=${WORKERS:-$workers}
    documents=data/documents/${out//\//_}_$L runs=data/book_runs/${out#results/}
    if [ -n "${OUT:-}" ]; then documents=$out/documents runs=$out/runs; fi
    # Documents have about 1.2 L tokens; a sequence is the first L of them.
    # shellcheck disable=SC2086  # flags are words
    "$python" measure_mutual_info/prepare_dataset.py --corpus "$corpus" --tokenizer "$tokenizer" \
        --min-tokens $((L * 6 / 5 + 1)) --out "$documents" $prepare_flags
    flags=$*
    export python threads documents runs L held_out flags PRESET out choice
    echo "$(wc -l <<< "$list") runs, $workers at a time, into $runs"
    at_a_time "$workers" train <<< "$list"
    while read -r model seed; do losses+=("$out/losses/${model}_$seed.csv"); done <<< "$list"
    compare "$out"
    if [ -n "$held_out" ]; then # the sample: these eight books are like many of those trained on
        compare "$out/addresses" --books "held_out/1*"
    fi
}

# compare OUT [--books …]: compares the models on all held-out books, or on these; writes into the folder OUT.
compare() {
    local out=$1
    shift
    # shellcheck disable=SC2086
    "$python" train_on_pg19/compare.py --losses "${losses[@]}" --out "$out" ${pairs:+--pairs $pairs} "$@"
    if [ "$PRESET" != paper ]; then
        # shellcheck disable=SC2086
        "$python" train_on_pg19/counting_floor.py --losses "${losses[0]}" --documents "$documents" --out "$out" \
            $choice "$@"
    fi
    "$python" plots/books.py --results "$out" --out "$out/$figure"
    "$python" plots/books.py --results "$out" --out "$out/training" --figure training
}

# run_list: turns lines "SEEDS | MODELS" into one line "MODEL SEED" per run.
run_list() {
    local seeds models seed model
    while IFS='|' read -r seeds models; do
        for seed in $seeds; do
            for model in $models; do echo "$model $seed"; done
        done
    done
}

train() { # MODEL SEED: trains and evaluates; does neither if the losses exist and the run does not
    local run=$runs/$1_$2 losses=$out/losses/$1_$2.csv name="$1, L = $L, seed $2"
    # shellcheck disable=SC2086
    logged "$name" "$run.txt" train_on_pg19/train.py --model "$1" --L "$L" --seed "$2" --documents "$documents" \
        --preset "$PRESET" ${held_out:+--held-out-books "$held_out"} $flags --losses "$losses" --out "$run" || return
    if [ ! -e "$run/run.json" ]; then return; fi
    # shellcheck disable=SC2086
    logged "$name" "$run.txt" train_on_pg19/evaluate.py --model "$run" --documents "$documents" --L "$L" \
        --store "$runs/nll" --out "$losses" $choice
}
export -f train
