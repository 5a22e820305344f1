#!/usr/bin/env bash
# Fig. B.2: bipartite mutual information at L/ℓ = 2, 3 and 4. The same run as Fig. 2b, drawn another way:
# fig2b.sh reuses its results where they are complete, and measures them otherwise.
# PRESET=smoke, demo, desk (default; seconds where fig2b.sh has run, else its hour on 2 CPU cores), paper.
set -euo pipefail
cd "$(dirname "$0")/.."
. measure_mutual_info/bipartite.sh

PRESET=${PRESET:-desk}
case $PRESET in
    smoke) run=results/smoke/fig2b out=results/smoke/figB2 ;;
    demo) run=results/demo out=results/demo ;;
    desk) run=results/fig2b out=results/figB2 ;;
    paper) run=results/paper/fig2b out=results/paper/figB2 ;;
    *) echo "error: PRESET=$PRESET: choose smoke, demo, desk or paper" >&2 && exit 2 ;;
esac
run=${OUT:-$run} out=${OUT:-$out}
PRESET=$PRESET bash measure_mutual_info/fig2b.sh "$@"
$python plots/figB2.py --results "$run" --out "$out/figB2"
