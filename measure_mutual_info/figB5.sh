#!/usr/bin/env bash
# Fig. B.5: two-point mutual information with and without its plateau: Î(d), and Î(d) − C.
# Drawn from the runs of Figs. 2c and B.4: takes seconds if figB4.sh has run with the same PRESET (smoke, cpu, paper),
# else as long as figB4.sh. OUT and flags: as for figB4.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
. measure_mutual_info/_two_point.sh
begin "smoke cpu paper" OUT

results=${OUT:-$results}
runs "$@"
if [ $# -gt 0 ] || [ ! -f "$books/two_point.csv" ] || [ ! -f "$wikipedia/two_point.csv" ]; then
    bash measure_mutual_info/figB4.sh "$@"
fi
"$python" plots/two_point.py --figure B.5 --results "$books" "$wikipedia" --out "$results/figB5/figB5"
