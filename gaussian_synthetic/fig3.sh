#!/usr/bin/env bash
# Fig. 3 (a, b, c): models trained on the sub-volume family: average KL against L, and against I(L/2; L) / dim(z), with
# how well one curve explains it (collapse.csv), and beside it how much of I(L/2; L) they use (utilisation).
#   PRESET=smoke  five small models to L = 16, 30 steps, which teach them nothing             2 CPU cores, 1 minute
#   PRESET=cpu    six small models (two layers, width 64), L = 16, 64, 256, three seeds, and  2 CPU cores, 74 minutes
#                 two of these lengths again with fewer steps (committed; default)
#   PRESET=gpu    the mini models to L = 1,024, more tokens a step, eight runs at a time    one GPU
#   PRESET=paper  Table F.1: 12 models, 64 copies a token, 500,000 steps each                 one GPU of 80 GB, months; days a run
# A part of it, or a model of your own (a line in models.py), and other lengths or families:
#     MODELS="gpt2-mini mamba-mini" LENGTHS="16 64" SEEDS="0 1" STEPS=2000 OUT=results/mine bash gaussian_synthetic/fig3.sh
# where what is left out is the six mini models, 16 64 256, seed 0 and 2,000 steps, whatever the preset.
# Flags go to train.py, e.g. --family logarithmic, and alone leave the runs those of the preset; they too want an OUT.
# WORKERS=4 trains four runs at a time, RUNS=folder puts the checkpoints there. A killed run goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
. common/environment.sh
begin MODELS LENGTHS SEEDS STEPS RUNS WORKERS OUT

# jobs BUDGET STEPS WARMUP LENGTHS SEEDS MODEL …: a line for each run
jobs() {
    local budget=$1 steps=$2 warmup=$3 lengths=$4 seeds=$5 L seed model
    shift 5
    for L in $lengths; do
        for seed in $seeds; do
            for model in "$@"; do echo "$budget $model $L $seed $steps $warmup"; done
        done
    done
}

# Few tokens a step, and so many steps: the same time buys a lower KL than with larger batches. A high learning rate and
# few copies for the same reason. tokens: of a step; the paper's batch is 4 sequences at every length.
mini="gpt2-mini window-mini mamba2-mini-256 mamba2-mini-512 mamba2-mini-2048 mamba2-mini-8192"
flags=(--copies 4 --learning-rate 4e-3) tokens=1024 workers=2 threads=1 draws=256
case ${PRESET:-cpu} in
    smoke)
        out=results/smoke/fig3 draws=16 flags=(--copies 2 --learning-rate 4e-3 --log-every 10 --checkpoint-every 10)
        list=$(jobs full 30 5 "16 4" 0 gpt2-mini mamba2-mini-256 mamba2-mini-512 mamba2-mini-2048 mamba2-mini-8192)
        ;;
    cpu)
        out=results/fig3
        # shellcheck disable=SC2086  # models are words
        list=$(
            jobs full 4000 200 256 "0 1 2" $mini
            jobs full 2000 100 64 "0 1 2" $mini
            jobs full 1000 100 16 "0 1 2" $mini
            jobs short 2000 200 256 0 $mini
            jobs short 500 50 64 0 $mini
            jobs without_positions 2000 100 64 0 mamba2-mini-2048-no-pos
        )
        ;;
    gpu)
        out=results/gpu/fig3 tokens=8192 workers=8
        # shellcheck disable=SC2086
        list=$(
            jobs full 8000 400 "1024 256" "0 1 2" $mini
            jobs full 4000 200 64 "0 1 2" $mini
            jobs short 4000 200 "1024 256" 0 $mini
        )
        ;;
    paper)
        out=results/paper/fig3 flags=(--precision fp32) tokens=0 workers=1 threads=16
        list=$(
            jobs full 500000 2000 "256 1024 4096" 0 gpt2 gpt2-medium gpt2-large
            jobs full 500000 2000 "64 256 1024 4096 16384" 0 mamba-50m mamba-70m mamba-130m
            jobs full 500000 2000 "64 256 1024 4096" 0 mamba-370m mamba-790m mamba-1.4b
            jobs full 500000 2000 "256 1024 4096" 0 mamba2-130m mamba2-370m mamba2-790m
        )
        ;;
    *) echo "error: PRESET=$PRESET: choose smoke, cpu, gpu or paper" >&2 && exit 2 ;;
esac
runs=data/gaussian_runs/${PRESET:-cpu}
mine=${MODELS:-}${LENGTHS:-}${SEEDS:-}${STEPS:-}
if [ -n "$mine" ] || [ $# -gt 0 ]; then # one's own: everything goes to OUT
    out=${OUT:?"set OUT, e.g. OUT=results/mine: with MODELS, LENGTHS, SEEDS, STEPS or flags of your own results go there"}
    runs=data/gaussian_runs/${out//\//_}
fi
if [ -n "$mine" ]; then
    steps=${STEPS:-2000}
    # shellcheck disable=SC2086
    list=$(jobs full "$steps" $((steps / 20)) "${LENGTHS:-16 64 256}" "${SEEDS:-0}" ${MODELS:-$mini})
fi
if [ "${PRESET:-cpu}" = paper ] && [ -z "${MODELS:-}" ]; then mamba_kernels; fi
out=${OUT:-$out} runs=${RUNS:-$runs} workers=${WORKERS:-$workers}
settings="${flags[*]} $*"

train() { # BUDGET MODEL L SEED STEPS WARMUP
    local folder=$runs/$1/$2_$3_$4 batch=4
    if [ "$tokens" -gt 0 ]; then batch=$((tokens > $3 ? tokens / $3 : 1)); fi
    mkdir -p "$folder"
    # shellcheck disable=SC2086
    if OMP_NUM_THREADS=$threads "$python" gaussian_synthetic/train.py --model "$2" --L "$3" --seed "$4" --steps "$5" \
        --warmup "$6" --batch $batch $settings --out "$folder" >> "$folder/train.txt" 2>&1; then
        echo "$1: $2, L = $3, seed $4: $(tail -n 1 "$folder/train.txt")"
    else
        echo "error: $2, L = $3, seed $4, see $folder/train.txt: $(tail -n 1 "$folder/train.txt")" >&2
        return 255 # xargs begins no further run
    fi
}
export -f train
export runs tokens threads python settings
echo "$(wc -l <<< "$list") runs, $workers at a time, into $runs"
at_a_time "$workers" train <<< "$list"

for budget in $(cut -d' ' -f1 <<< "$list" | sort -u); do
    folders=()
    while read -r of model L seed _; do
        if [ "$of" = "$budget" ]; then folders+=("$runs/$budget/${model}_${L}_$seed"); fi
    done <<< "$list"
    part=$out/$budget
    if [ "$budget" = full ]; then part=$out; fi
    "$python" gaussian_synthetic/evaluate.py --runs "${folders[@]}" --draws $draws --out "$part"
done
if ! "$python" gaussian_synthetic/collapse.py --summary "$out/summary.csv" --out "$out/collapse.csv"; then
    echo "no collapse.csv, and so no number in panel c: it takes more models of fixed state, see above"
fi
"$python" plots/gaussian_models.py --figure 3 --results "$out" --out "$out/fig3"
"$python" plots/gaussian_models.py --figure utilisation --results "$out" --out "$out/utilisation"
"$python" plots/gaussian_models.py --figure training --results "$out" --out "$out/training"
