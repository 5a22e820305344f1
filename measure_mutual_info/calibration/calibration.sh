#!/usr/bin/env bash
# Does the pipeline return a known answer? Runs bipartite.py, two_point.py, contrast.py (vCLUB with several donors) and
# clustered.py (documents in books), then draws the picture. Not a figure of the paper.
# Replications, documents and lengths of each preset are in PRESETS of each program.
#   PRESET=smoke  1 minute on 2 CPU cores
#   PRESET=cpu    50 minutes on 2 CPU cores (committed; default); also Santa Fe with less and with more noise
#   PRESET=paper  the same with the paper's 1,024 documents
# Flags go to bipartite.py, e.g. --workers 16; with flags, Santa Fe with less and with more noise is left out.
set -euo pipefail
cd "$(dirname "$0")/../.."
. common/environment.sh
begin "smoke cpu paper" OUT

out=${OUT:-$results/calibration}
"$python" measure_mutual_info/calibration/bipartite.py --out "$out" --preset "$PRESET" "$@"
if [ "$PRESET" != smoke ] && [ $# -eq 0 ]; then
    "$python" measure_mutual_info/calibration/bipartite.py --out "$out" --preset "$PRESET-noise"
fi
"$python" measure_mutual_info/calibration/two_point.py --out "$out" --preset "$PRESET"
"$python" measure_mutual_info/calibration/contrast.py --out "$out" --preset "$PRESET"
"$python" measure_mutual_info/calibration/clustered.py --out "$out" --preset "$PRESET"
"$python" plots/calibration.py --results "$out" --out "$out/calibration"
