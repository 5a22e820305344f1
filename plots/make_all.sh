#!/usr/bin/env bash
# Redraws every figure from the committed CSVs in results/, as PNG and PDF. No GPU, no model; one CPU core, a minute.
# Figs. 1 and 2a are drawings without data.
#
#     bash plots/make_all.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. common/environment.sh
begin cpu

draw() {  # PROGRAM OUT FOLDER… [flags]
  "$python" "plots/$1.py" --out "results/$2" --results "${@:3}"
}

draw bipartite fig2b/fig2b results/fig2b --figure 2b
draw bipartite figB2/figB2 results/fig2b --figure B.2
draw bipartite figB3/figB3 results/fig2b --figure B.3
draw bipartite fig2b/sweep results/fig2b --figure sweep
draw models figB1/figB1 results/fig2b results/figB1/{books,wikipedia}/*/ --figure B.1 \
  --compared results/figB1/{books,wikipedia}/models.csv
draw models figB1/exponent --figure exponent --compared results/figB1/{whole_books,addresses,wikipedia}/models.csv
draw two_point fig2c/fig2c results/fig2c --figure 2c
draw two_point figB4/figB4 results/fig2c results/figB4/wikipedia --figure B.4
draw two_point figB4/ranges results/fig2c results/figB4/wikipedia --figure ranges
draw two_point figB5/figB5 results/fig2c results/figB4/wikipedia --figure B.5
draw calibration calibration/calibration results/calibration
draw families figC6/figC6 results/figC6/subvolume results/figC6/logarithmic
draw gaussian_models figG7/figG7 results/fig3 --figure G.7
draw gaussian_models figG8/figG8 results/fig3 --figure G.8
draw gaussian_models fig3/fig3 results/fig3 --figure 3
for figure in utilisation training frontier; do draw gaussian_models "fig3/$figure" results/fig3 --figure "$figure"; done
draw gaussian_models fig3/few_copies/frontier results/fig3/few_copies --figure frontier
for folder in fig4 figG9; do
  for books in "$folder" "$folder/addresses"; do
    draw books "$books/$folder" "results/$books"
    draw books "$books/training" "results/$books" --figure training
  done
done
draw books fig4/pretrained/pretrained results/fig4 --pretrained results/fig4/pretrained/*/
draw condition condition/condition results/condition
"$python" plots/drawings.py
