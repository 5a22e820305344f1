#!/usr/bin/env bash
# Fig. G.7: KL of each model by position, from the runs of Fig. 3.
# Takes seconds if fig3.sh has run with the same PRESET (smoke, cpu, gpu, paper), else as long as fig3.sh.
# Flags go to plots/gaussian_models.py, e.g. --L 64.
set -euo pipefail
cd "$(dirname "$0")/.."
. common/environment.sh
begin "smoke cpu gpu paper"

if [ ! -f "$results/fig3/kl.csv" ]; then bash gaussian_synthetic/fig3.sh; fi
"$python" plots/gaussian_models.py --figure G.7 --results "$results/fig3" --out "$results/figG7/figG7" "$@"
