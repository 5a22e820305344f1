# Sourced by the figures' shell files: the way from a corpus to bipartite.csv and fit.csv, each step a file to open.
# They set the inputs: out (the folder of the results), documents (that of the tokenised documents), corpus, model, L_max
# (tokens), n_documents ("all", or a number drawn at random) and prepare_flags (of prepare_dataset.py).

. common/environment.sh
sample_model=data/sample/model/SmolLM2-135M-Instruct.Q4_1.gguf

# take_own: puts the settings CORPUS, MODEL, PREPARE_FLAGS and OUT in the place of these inputs.
take_own() {
    if [ -n "${CORPUS:-}${MODEL:-}" ]; then # one's own: everything goes to a folder of its own
        documents=${OUT:?"set OUT, e.g. OUT=results/mine: with a CORPUS or MODEL of your own the results go there"}/documents
    fi
    if [ -n "${CORPUS:-}" ]; then prepare_flags=""; fi
    corpus=${CORPUS:-$corpus} model=${MODEL:-$model} out=${OUT:-$out} prepare_flags=${PREPARE_FLAGS:-$prepare_flags}
}

# prepare MIN_TOKENS
prepare() {
    case "$corpus$model" in *data/sample/*) "$python" measure_mutual_info/fetch_sample.py ;; esac
    # shellcheck disable=SC2086  # flags are words
    "$python" measure_mutual_info/prepare_dataset.py --corpus "$corpus" --tokenizer "$model" --min-tokens "$1" \
        --out "$documents" $prepare_flags
}

# score FOLDER PRESET [FLAG ...]: of score_documents.py.
score() {
    local drawn=()
    [ "$n_documents" = all ] || drawn=(--n-documents "$n_documents")
    "$python" measure_mutual_info/score_documents.py --documents "$documents" --model "$model" --L-max "$L_max" \
        ${drawn[@]+"${drawn[@]}"} --preset "$2" --out "$1/scores.csv" "${@:3}"
}

# measure PRESET [FLAG ...]: all steps; PRESET and flags are of score_documents.py.
measure() {
    prepare "$L_max"
    score "$out" "$@"
    "$python" measure_mutual_info/count_ngrams.py --documents "$documents" --out "$out/counts.csv"
    "$python" measure_mutual_info/estimate_bipartite.py --scores "$out/scores.csv" --counts "$out/counts.csv" \
        --unpaired --out "$out"
    "$python" measure_mutual_info/estimate_entropy_rate.py --scores "$out/scores.csv" --out "$out"
}

# draw_from_fig2b FIGURE [SCORE_FLAGS ...]: another picture of the run of Fig. 2b, which fig2b.sh reuses or makes.
draw_from_fig2b() {
    local figure=$1 run out
    case $PRESET in
        smoke) run=results/smoke/fig2b out=results/smoke/$figure ;;
        demo) run=results/demo out=results/demo ;;
        cpu) run=results/fig2b out=results/$figure ;;
        paper) run=results/paper/fig2b out=results/paper/$figure ;;
        *) echo "error: PRESET=$PRESET: choose smoke, demo, cpu or paper" >&2 && exit 2 ;;
    esac
    bash measure_mutual_info/fig2b.sh "${@:2}"
    "$python" plots/bipartite.py --figure "${figure/figB/B.}" --results "${OUT:-$run}" --out "${OUT:-$out}/$figure"
}
