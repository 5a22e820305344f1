# Sourced by the figures' shell files: the way from a corpus to two_point.csv and fit.csv, each step a file to open.

. common/environment.sh
use_python
# At the desk: 384 tokens, learned from the sample itself. More of them reach farther in characters, but have more pairs
# to measure: with 384, Î − C of the books stands out of shuffled text (by 3 errors) to d = 256 and C is below it up to
# d = 16; with 512 to d = 128 and C above it from d = 16; with 768 to d = 32; with 1,024 C is 0.19 nats.
sample_tokenizer=data/tokenizers/sample_bpe384

# measure OUT DOCUMENTS CORPUS TOKENIZER D_MAX D_FIT PREPARE_FLAGS [COUNT_FLAGS ...]
# Whole texts, tokenised, go to the folder DOCUMENTS, all else to OUT. Pairs at d = 1, 2, 4 … D_MAX; fits end at D_FIT.
measure() {
    local out=$1 documents=$2 corpus=$3 tokenizer=$4 d_max=$5 d_fit=$6 prepare_flags=$7
    shift 7
    local d=1 distances=()
    while [ "$d" -le "$d_max" ]; do distances+=("$d") && d=$((2 * d)); done
    case "$corpus$tokenizer" in *data/sample/* | *"$sample_tokenizer")
        $python measure_mutual_info/fetch_sample.py --parts books wikipedia
        ;;
    esac
    if [ "$tokenizer" = "$sample_tokenizer" ]; then
        $python measure_mutual_info/train_bpe.py --corpus data/sample --vocab-size 384 --out "$tokenizer"
    fi
    # shellcheck disable=SC2086  # flags are words
    $python measure_mutual_info/prepare_dataset.py --corpus "$corpus" --tokenizer "$tokenizer" --boundaries book \
        --out "$documents" $prepare_flags
    $python measure_mutual_info/count_ngrams.py --documents "$documents" --out "$out/counts.csv" \
        --d "${distances[@]}" "$@"
    $python measure_mutual_info/estimate_two_point.py --counts "$out/counts.csv" --d-max "$d_fit" --out "$out"
}

# runs: sets $books and $wikipedia to where fig2c.sh and figB4.sh with this PRESET put their results, $results around.
runs() {
    case ${PRESET:-desk} in
        smoke) results=results/smoke ;;
        desk) results=results ;;
        paper) results=results/paper ;;
        *) echo "error: PRESET=$PRESET: choose smoke, desk or paper" >&2 && exit 2 ;;
    esac
    books=$results/fig2c wikipedia=$results/figB4/wikipedia
}
