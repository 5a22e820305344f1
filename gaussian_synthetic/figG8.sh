#!/usr/bin/env bash
# Fig. G.8: NLL of each model position by position, and the exact entropy; another picture of the runs of Fig. 3.
# Seconds where fig3.sh has run with the same PRESET (smoke, cpu, gpu, paper), else as long as that takes.
# Flags go to plots/gaussian_models.py, e.g. --row 16.
set -euo pipefail
cd "$(dirname "$0")/.."
. common/environment.sh
begin

case $PRESET in
    smoke) results=results/smoke ;;
    cpu) results=results ;;
    gpu | paper) results=results/$PRESET ;;
    *) echo "error: PRESET=$PRESET: choose smoke, cpu, gpu or paper" >&2 && exit 2 ;;
esac
if [ ! -f "$results/fig3/kl.csv" ]; then bash gaussian_synthetic/fig3.sh; fi
"$python" plots/gaussian_models.py --figure G.8 --results "$results/fig3" --out "$results/figG8/figG8" "$@"
