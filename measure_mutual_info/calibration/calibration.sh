#!/usr/bin/env bash
# Does the pipeline return a known answer? Estimates, intervals and exponents on processes whose mutual information is
# exact (noisy Santa Fe at β = 0.5 and 0.75 and three ε, Bernoulli of unknown bias, Markov), and the same for two-point
# information (two_point.csv). Not a figure of the paper.
#   PRESET=smoke  20 replications of 30 and 100 documents to L = 256                             2 CPU cores, 1 minute
#   PRESET=cpu    1,000 replications of 100 and 1,000 documents to L = 2048 (committed; default) 2 CPU cores, 33 minutes
#   PRESET=paper  the same with the paper's 1,024 documents                                      2 CPU cores, 33 minutes
# Two-point: 600 replications of 100 books of 1,000 tokens (smoke: 10 of 30 of 200), 5 minutes of these on one core.
# Replications, documents and lengths of each preset stand at the top of bipartite.py and two_point.py (PRESETS).
# Flags go to bipartite.py, e.g. --workers 16.
set -euo pipefail
cd "$(dirname "$0")/../.."
. common/environment.sh
begin OUT

case $PRESET in
    smoke) out=results/smoke/calibration ;;
    cpu) out=results/calibration ;;
    paper) out=results/paper/calibration ;;
    *) echo "error: PRESET=$PRESET: choose smoke, cpu or paper" >&2 && exit 2 ;;
esac

out=${OUT:-$out}
"$python" measure_mutual_info/calibration/bipartite.py --out "$out" --preset "$PRESET" "$@"
if [ "$PRESET" != smoke ] && [ $# -eq 0 ]; then
    "$python" measure_mutual_info/calibration/bipartite.py --out "$out" --preset "$PRESET-noise"
fi
"$python" measure_mutual_info/calibration/two_point.py --out "$out" --preset "$PRESET"
"$python" plots/calibration.py --results "$out" --out "$out/calibration"
