#!/usr/bin/env bash
# Fig. B.3: the direct estimator with and without the 2-gram correction. The same run as Fig. 2b, drawn another way:
# fig2b.sh reuses its results where they are complete, and measures them otherwise.
# PRESET=smoke, demo, desk (default; seconds where fig2b.sh has run, else its hour on 2 CPU cores), paper.
set -euo pipefail
cd "$(dirname "$0")/.."
. measure_mutual_info/bipartite.sh

PRESET=${PRESET:-desk}
case $PRESET in
    smoke) run=results/smoke/fig2b out=results/smoke/figB3 ;;
    demo) run=results/demo out=results/demo ;;
    desk) run=results/fig2b out=results/figB3 ;;
    paper) run=results/paper/fig2b out=results/paper/figB3 ;;
    *) echo "error: PRESET=$PRESET: choose smoke, demo, desk or paper" >&2 && exit 2 ;;
esac
run=${OUT:-$run} out=${OUT:-$out}
PRESET=$PRESET bash measure_mutual_info/fig2b.sh "$@"
$python plots/figB3.py --results "$run" --out "$out/figB3"
