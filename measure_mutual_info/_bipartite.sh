# Sourced by the figures' shell files: the way from a corpus to bipartite.csv and fit.csv, each step a file to open.

. common/environment.sh
sample_model=data/sample/model/SmolLM2-135M-Instruct.Q4_1.gguf

# measure OUT DOCUMENTS CORPUS MODEL L_MAX N_DOCUMENTS PREPARE_FLAGS SCORE_PRESET [SCORE_FLAGS ...]
# Tokenised documents go to the folder DOCUMENTS, all else to OUT. N_DOCUMENTS: "all" or a number drawn at random.
# SCORE_PRESET: one of score_documents.py.
measure() {
    local out=$1 documents=$2 corpus=$3 model=$4 L_max=$5 n_documents=$6 prepare_flags=$7 preset=$8
    shift 8
    local drawn=()
    [ "$n_documents" = all ] || drawn=(--n-documents "$n_documents")
    case "$corpus$model" in *data/sample/*) "$python" measure_mutual_info/fetch_sample.py ;; esac
    # shellcheck disable=SC2086  # flags are words
    "$python" measure_mutual_info/prepare_dataset.py --corpus "$corpus" --tokenizer "$model" --min-tokens "$L_max" \
        --out "$documents" $prepare_flags
    "$python" measure_mutual_info/score_documents.py --documents "$documents" --model "$model" --L-max "$L_max" \
        ${drawn[@]+"${drawn[@]}"} --preset "$preset" --out "$out/scores.csv" "$@"
    "$python" measure_mutual_info/count_ngrams.py --documents "$documents" --out "$out/counts.csv"
    "$python" measure_mutual_info/estimate_bipartite.py --scores "$out/scores.csv" --counts "$out/counts.csv" \
        --unpaired --out "$out"
}

# draw_from_fig2b FIGURE [SCORE_FLAGS ...]: another picture of the run of Fig. 2b, which fig2b.sh reuses or makes.
draw_from_fig2b() {
    local figure=$1 run out
    shift
    case $PRESET in
        smoke) run=results/smoke/fig2b out=results/smoke/$figure ;;
        demo) run=results/demo out=results/demo ;;
        cpu) run=results/fig2b out=results/$figure ;;
        paper) run=results/paper/fig2b out=results/paper/$figure ;;
        *) echo "error: PRESET=$PRESET: choose smoke, demo, cpu or paper" >&2 && exit 2 ;;
    esac
    run=${OUT:-$run} out=${OUT:-$out}
    bash measure_mutual_info/fig2b.sh "$@"
    "$python" plots/bipartite.py --figure "${figure/figB/B.}" --results "$run" --out "$out/$figure"
}
