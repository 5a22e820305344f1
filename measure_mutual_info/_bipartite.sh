# Sourced by the shell files of the figures: the steps from a corpus to bipartite.csv and fit.csv. Each writes a file.
# The shell files set the inputs: out (the folder of the results), documents (the folder of the tokenised documents),
# corpus, model, L_max (tokens), n_documents ("all", or how many to draw at random), prepare_flags (for
# prepare_dataset.py) and tokenizer (if it is not that of the model).

. measure_mutual_info/_corpora.sh
tokenizer=
more_models=data/sample/more_models
smollm2=data/sample/model/SmolLM2-135M-Instruct.Q4_1.gguf
gemma=$more_models/gemma-3-270m.Q4_K_M.gguf
qwen_small=$more_models/Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf
qwen_large=$more_models/Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf

# short MODEL: prints its name without folder, owner, "-Instruct", quantisation and file extension.
short() {
    local name=${1%/}
    name=${name##*/}
    name=${name%%.Q[0-9]_*}
    echo "${name%-Instruct}"
}

# take_own: replaces the inputs by the settings CORPUS, MODEL, PREPARE_FLAGS and OUT, if they are given.
take_own() {
    if [ -n "${CORPUS:-}${MODEL:-}${PREPARE_FLAGS:-}" ]; then # custom inputs: everything goes to a separate folder
        own_needs_out "a CORPUS or MODEL"
        documents=$OUT/documents
    fi
    if [ -n "${CORPUS:-}" ]; then named "$CORPUS"; fi
    model=${MODEL:-$model} out=${OUT:-$out} prepare_flags+=" ${PREPARE_FLAGS:-}"
}

# prepare MIN_TOKENS: fetches what is needed of the sample and writes documents of at least MIN_TOKENS tokens.
prepare() {
    fetch_corpus
    case $model in
        data/sample/model/*) "$python" measure_mutual_info/fetch_sample.py --parts model ;;
        "$more_models"/*)
            "$python" measure_mutual_info/fetch_sample.py --parts more_models --models "$(basename "$model" .Q4_K_M.gguf)"
            ;;
    esac
    # shellcheck disable=SC2086  # flags are words
    "$python" measure_mutual_info/prepare_dataset.py --corpus "$corpus" --tokenizer "${tokenizer:-$model}" \
        --min-tokens "$1" --out "$documents" $prepare_flags
}

# score FOLDER PRESET [FLAG ...]: writes FOLDER/scores.csv; PRESET and flags are those of score_documents.py.
score() {
    local drawn=()
    [ "$n_documents" = all ] || drawn=(--n-documents "$n_documents")
    "$python" measure_mutual_info/score_documents.py --documents "$documents" --model "$model" --L-max "$L_max" \
        ${drawn[@]+"${drawn[@]}"} --preset "$2" --out "$1/scores.csv" "${@:3}"
}

# find_start: sets start, the flags for the start token of $model: the token after which the first 32 tokens of a text
# have the smallest loss, see results/start_token.
find_start() {
    start=()
    case ${model##*/} in # wherever the file is
        "${smollm2##*/}") start=(--bos "<|endoftext|>") ;;
        "${qwen_small##*/}") start=(--bos "<|im_start|>") ;;
    esac
}

# measure PRESET [FLAG ...]: runs all steps; PRESET and flags are those of score_documents.py.
measure() {
    local start
    find_start
    prepare "$L_max"
    score "$out" "$1" ${start[@]+"${start[@]}"} "${@:2}"
    "$python" measure_mutual_info/count_ngrams.py --documents "$documents" --out "$out/counts.csv"
    "$python" measure_mutual_info/estimate_bipartite.py --scores "$out/scores.csv" --counts "$out/counts.csv" \
        --unpaired --out "$out"
    "$python" measure_mutual_info/estimate_entropy_rate.py --scores "$out/scores.csv" --out "$out"
}

# draw_from_fig2b FIGURE [SCORE_FLAGS ...]: draws FIGURE from the run of Fig. 2b, which fig2b.sh reuses or makes.
draw_from_fig2b() {
    local figure=$1 run=$results/fig2b out=$results/$1
    if [ "$PRESET" = demo ]; then run=$results out=$results; fi
    bash measure_mutual_info/fig2b.sh "${@:2}"
    "$python" plots/bipartite.py --figure "${figure/figB/B.}" --results "${OUT:-$run}" --out "${OUT:-$out}/$figure"
}
