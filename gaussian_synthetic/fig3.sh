#!/usr/bin/env bash
# Fig. 3: models trained on the sub-volume family. Average KL against L (a, b), against I(L/2; L) / dim(z) (c), with how
# well one curve explains it (collapse.csv), and minus that of the best linear state (d); the share of I(L/2; L) used.
#   PRESET=smoke  six small models to L = 16, 90 steps, which teach them little               2 CPU cores, 1 minute
#   PRESET=cpu    ten small models (two layers, width 128, 16 copies), L = 16, 64, 256, two   2 CPU cores, 3 hours
#                 seeds, each until more steps change little; seven of other sizes, one
#                 seed; eight smaller ones with 4 copies at L = 16, 64 (committed; default)
#   PRESET=gpu    the ten models to L = 1,024, three seeds, eight runs at a time              one GPU
#   PRESET=paper  Table F.1: 12 models, 64 copies per token, 500,000 steps each               one GPU of 80 GB, months; days a run
# Steps, learning rate, batch and copies of each preset are in PRESETS of train.py, and draws in PRESETS of evaluate.py.
# Except with PRESET=paper, a run starts from the weights of the same model trained at a quarter of its length.
# To run a part of it, a model of your own (a line in common/architectures.py), or other lengths or families:
#     MODELS="gpt2-128 gru-128-32" LENGTHS="16 64" SEEDS="0 1" OUT=results/mine bash gaussian_synthetic/fig3.sh --steps 2000
# If one of MODELS, LENGTHS and SEEDS is given, the others default to the ten models, 16 64 256 and 0 in every preset.
# Flags go to train.py, e.g. --family logarithmic. With flags alone the runs are those of the preset; OUT is needed too.
# WORKERS=4 trains four runs at a time; RUNS=folder puts the checkpoints there. The same command continues a killed run.
set -euo pipefail
cd "$(dirname "$0")/.."
. common/environment.sh
begin "smoke cpu gpu paper" MODELS LENGTHS SEEDS RUNS WORKERS OUT

# grid: FOLDER of the results | PRESET of train.py | LENGTHS | SEEDS | MODELS; one run per length, seed and model.
fixed="mamba2-128-64 mamba2-128-256 mamba2-128-1024 mamba2-128-4096 mamba2-128-16384 gru-128-64 gru-128-256"
small="gpt2-128 qwen3-128 window-128 $fixed"
more="mamba2-128-128 mamba2-128-512 mamba2-128-2048 mamba2-128-8192 gru-128-16 gru-128-32 gru-128-128"
few="gru-64-4 gru-64-8 gru-64-16 gru-64-32 gru-64-64 mamba2-64-32 mamba2-64-64 mamba2-64-128"
# Without these, the allocator returns memory to the system and requests it again at every step.
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=200000000
warm=1 # whether a run starts from the weights of the run at a fourth of its length
case $PRESET in
    smoke)
        workers=2 threads=1
        grid="full | smoke | 4 16 | 0 | gpt2-128 window-128 mamba2-128-64 mamba2-128-256 mamba2-128-1024 gru-128-64
            few_copies | smoke | 4 16 | 0 | gru-64-4 mamba2-64-32"
        ;;
    cpu)
        workers=2 threads=1
        grid="full | cpu | 16 64 256 | 0 1 | $small
            full | cpu | 16 64 256 | 0 | $more
            few_copies | cpu-few | 16 64 | 0 1 | $few
            without_positions | cpu | 64 | 0 1 | mamba2-128-1024-no-pos"
        ;;
    gpu)
        workers=8 threads=1
        grid="full | gpu | 16 64 256 1024 | 0 1 2 | $small"
        ;;
    paper)
        workers=1 threads=16 warm=
        grid="full | paper | 256 1024 4096 | 0 | gpt2 gpt2-medium gpt2-large
            full | paper | 64 256 1024 4096 16384 | 0 | mamba-50m mamba-70m mamba-130m
            full | paper | 64 256 1024 4096 | 0 | mamba-370m mamba-790m mamba-1.4b
            full | paper | 256 1024 4096 | 0 | mamba2-130m mamba2-370m mamba2-790m"
        ;;
esac

runs=data/gaussian_runs/$PRESET
if [ -n "${MODELS:-}${LENGTHS:-}${SEEDS:-}" ]; then
    grid="full | $PRESET | ${LENGTHS:-16 64 256} | ${SEEDS:-0} | ${MODELS:-$small}"
fi
if [ -n "${MODELS:-}${LENGTHS:-}${SEEDS:-}" ] || [ $# -gt 0 ]; then # custom inputs: everything goes to OUT
    own_needs_out "MODELS, LENGTHS, SEEDS or flags"
    runs=$OUT/runs
fi
if [ "$PRESET" = paper ] && [ -z "${MODELS:-}" ]; then mamba_kernels; fi
out=${OUT:-$results/fig3} runs=${RUNS:-$runs} workers=${WORKERS:-$workers} flags=$*

list=$( # a line for each run
    while IFS='|' read -r folder preset lengths seeds models; do
        for seed in $seeds; do
            for L in $lengths; do
                for model in $models; do echo $folder $preset "$model $L $seed"; done
            done
        done
    done <<< "$grid"
)

train() { # FOLDER PRESET MODEL L SEED
    local start=$runs/$1/$3_$(($4 / 4))_$5 run=$runs/$1/$3_$4_$5 from=()
    if [ -n "$warm" ] && [ -d "$start" ]; then from=(--start "$start"); fi
    # shellcheck disable=SC2086  # flags are words
    logged "$1: $3, L = $4, seed $5" "$run.txt" gaussian_synthetic/train.py --model "$3" --L "$4" --seed "$5" \
        --preset "$2" ${from[@]+"${from[@]}"} $flags --out "$run"
}
export -f train
export runs threads python flags warm
echo "$(wc -l <<< "$list") runs, $workers at a time, into $runs"
for L in $(cut -d' ' -f4 <<< "$list" | sort -nu); do # a longer run starts from the weights of the shorter one
    at_a_time "$workers" train <<< "$(awk -v L="$L" '$4 == L' <<< "$list")"
done

for name in $(cut -d' ' -f1 <<< "$list" | sort -u); do
    folders=()
    while read -r of _ model L seed; do
        if [ "$of" = "$name" ]; then folders+=("$runs/$name/${model}_${L}_$seed"); fi
    done <<< "$list"
    part=$out/$name
    if [ "$name" = full ]; then part=$out; fi
    "$python" gaussian_synthetic/evaluate.py --runs "${folders[@]}" --preset "$PRESET" --out "$part"
done
if ! "$python" gaussian_synthetic/collapse.py --summary "$out/summary.csv" --out "$out/collapse.csv"; then
    rm -f "$out"/collapse.{csv,json} # those of other runs
    echo "no collapse.csv: see the error above"
fi
"$python" plots/gaussian_models.py --figure 3 --results "$out" --out "$out/fig3"
"$python" plots/gaussian_models.py --figure frontier --results "$out" --out "$out/frontier"
if [ -d "$out/few_copies" ]; then
    "$python" plots/gaussian_models.py --figure frontier --results "$out/few_copies" --out "$out/few_copies/frontier"
fi
"$python" plots/gaussian_models.py --figure utilisation --results "$out" --out "$out/utilisation"
"$python" plots/gaussian_models.py --figure training --results "$out" --out "$out/training"
