#!/usr/bin/env bash
# Redraws every figure whose CSVs are in results/, as PNG and PDF. No GPU, no model; one CPU core, about a minute.
# Figures 2b, B.2 and B.3 show one run (results/fig2b), B.1 this one beside those of results/figB1/<corpus>; each run gets
# its sweep.png beside its CSVs. Figure 2c shows results/fig2c, B.4 and B.5 this one beside those of
# results/figB4/<corpus>. results/calibration holds a folder for each process, results/figC6 one for each family.
# Figures G.7, G.8, utilisation and training show the runs of Fig. 3 (results/fig3). Figures 4 and G.9 and the L²M
# condition have folders of their own; Figures 1 and 2a are drawings.
#
#     bash plots/make_all.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. common/environment.sh
begin

folders() {  # the folders of those of these files that are there
  for file in "$@"; do if [ -f "$file" ]; then dirname "$file"; fi; done
}
draw() {  # program, folders, OUT, other flags; nothing where there is no folder
  if [ -n "$2" ]; then
    # shellcheck disable=SC2086
    "$python" "plots/$1.py" --results $2 --out "results/$3" "${@:4}"
  fi
}

books=$(folders results/fig2b/bipartite.csv)
corpora=$(folders results/figB1/*/bipartite.csv)
draw bipartite "$books" fig2b/fig2b --figure 2b
draw bipartite "$books" figB2/figB2 --figure B.2
draw bipartite "$books" figB3/figB3 --figure B.3
if [ -n "$corpora" ]; then draw bipartite "$books $corpora" figB1/figB1 --figure B.1; fi
for folder in $books $corpora; do draw bipartite "$folder" "${folder#results/}/sweep" --figure sweep; done
books=$(folders results/fig2c/two_point.csv)
corpora=$(folders results/fig2c/two_point.csv results/figB4/*/two_point.csv)
draw two_point "$books" fig2c/fig2c --figure 2c
draw two_point "$corpora" figB4/figB4 --figure B.4
draw two_point "$corpora" figB5/figB5 --figure B.5
if compgen -G 'results/calibration/*/coverage.csv' > /dev/null; then draw calibration results/calibration calibration; fi
draw families "$(folders results/figC6/{subvolume,logarithmic}/gaussian_mi.csv)" figC6/figC6
runs=$(folders results/fig3/summary.csv)
draw gaussian_models "$runs" fig3/fig3 --figure 3
draw gaussian_models "$runs" figG7/figG7 --figure G.7
draw gaussian_models "$runs" figG8/figG8 --figure G.8
draw gaussian_models "$runs" fig3/utilisation --figure utilisation
draw gaussian_models "$runs" fig3/training --figure training
draw books "$(folders results/fig4/smooth.csv)" fig4/fig4
draw books "$(folders results/figG9/smooth.csv)" figG9/figG9
draw condition "$(folders results/condition/required.csv)" condition/condition
"$python" plots/drawings.py
