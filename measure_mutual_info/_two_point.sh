# Sourced by the shell files of the figures: the steps from a corpus to two_point.csv and fit.csv. Each writes a file.
# The shell files set the inputs: corpus, d_max and d_fit (pairs at d = 1, 2, 4 … d_max; fits end at d_fit),
# prepare_flags (for prepare_dataset.py) and counting (a preset of count_ngrams.py).

. measure_mutual_info/_corpora.sh
# The sample is tokenised by a BPE of 384 tokens, trained on the corpus itself. Larger ones reach farther in characters,
# but have more pairs to measure and so a higher plateau: on the twelve books 0.003 nats with 384, 0.02 with 1,024.

# measure OUT DOCUMENTS TOKENIZER [COUNT_FLAGS ...]
# Writes whole tokenised texts to the folder DOCUMENTS, and all else to OUT. A TOKENIZER named …_bpe384 that does not
# exist yet, or was made here, has 384 tokens and is trained on the corpus.
measure() {
    local out=$1 documents=$2 tokenizer=$3 d distances=()
    for ((d = 1; d <= d_max; d *= 2)); do distances+=("$d"); done
    fetch_corpus
    if [[ $tokenizer =~ _bpe[0-9]+$ ]] && { [ ! -e "$tokenizer" ] || [ -f "$tokenizer/train_bpe.json" ]; }; then
        "$python" measure_mutual_info/train_bpe.py --corpus "$corpus" --vocab-size "${tokenizer##*_bpe}" --out "$tokenizer"
    fi
    # shellcheck disable=SC2086  # flags are words
    "$python" measure_mutual_info/prepare_dataset.py --corpus "$corpus" --tokenizer "$tokenizer" --boundaries book \
        --out "$documents" $prepare_flags
    "$python" measure_mutual_info/count_ngrams.py --documents "$documents" --out "$out/counts.csv" \
        --d "${distances[@]}" --preset "$counting" "${@:4}"
    "$python" measure_mutual_info/estimate_two_point.py --counts "$out/counts.csv" --d-max "$d_fit" --out "$out"
}

# runs [COUNT_FLAGS ...]: sets books and wikipedia to the folders that fig2c.sh and figB4.sh use with this PRESET, and
# counting. Flags need OUT.
runs() {
    if [ $# -gt 0 ]; then own_needs_out flags; fi
    books=$results/fig2c wikipedia=$results/figB4/wikipedia counting=$PRESET
}
