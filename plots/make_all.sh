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

bipartite=()
for folder in results/fig2b results/figB1/*; do
  if [ -f "$folder/bipartite.csv" ]; then bipartite+=("$folder"); fi
done
two_point=()
for folder in results/fig2c results/figB4/*; do
  if [ -f "$folder/two_point.csv" ]; then two_point+=("$folder"); fi
done
calibration=false
if compgen -G 'results/calibration/*/coverage.csv' > /dev/null; then calibration=true; fi
families=()
for family in subvolume logarithmic; do
  if [ -f "results/figC6/$family/gaussian_mi.csv" ]; then families+=("results/figC6/$family"); fi
done
others=()
for file in results/fig3/summary.csv results/fig4/smooth.csv results/figG9/smooth.csv results/condition/required.csv; do
  if [ -f "$file" ]; then others+=("$file"); fi
done
if [ ${#bipartite[@]} -eq 0 ] && [ ${#two_point[@]} -eq 0 ] && [ ${#families[@]} -eq 0 ] && ! $calibration &&
  [ ${#others[@]} -eq 0 ]; then
  echo "nothing to draw: no results/fig2b/bipartite.csv (bash measure_mutual_info/fig2b.sh makes it)" >&2
  exit 2
fi

if [ -f results/fig2b/bipartite.csv ]; then
  for figure in 2b B.2 B.3; do
    name=fig${figure/./}
    "$python" plots/bipartite.py --figure "$figure" --results results/fig2b --out "results/$name/$name"
  done
fi
if compgen -G 'results/figB1/*/bipartite.csv' > /dev/null; then
  "$python" plots/bipartite.py --figure B.1 --results "${bipartite[@]}" --out results/figB1/figB1
fi
for folder in results/fig2b results/figB1/*; do
  if [ -f "$folder/sweep.csv" ]; then
    "$python" plots/bipartite.py --figure sweep --results "$folder" --out "$folder/sweep"
  fi
done
if [ -f results/fig2c/two_point.csv ]; then
  "$python" plots/two_point.py --figure 2c --results results/fig2c --out results/fig2c/fig2c
fi
if [ ${#two_point[@]} -gt 0 ]; then
  for figure in B.4 B.5; do
    name=fig${figure/./}
    "$python" plots/two_point.py --figure "$figure" --results "${two_point[@]}" --out "results/$name/$name"
  done
fi
if $calibration; then "$python" plots/calibration.py --results results/calibration; fi
if [ ${#families[@]} -gt 0 ]; then
  "$python" plots/families.py --results "${families[@]}" --out results/figC6/figC6
fi
if [ -f results/fig3/summary.csv ]; then
  for picture in 3:fig3/fig3 G.7:figG7/figG7 G.8:figG8/figG8 utilisation:fig3/utilisation training:fig3/training; do
    "$python" plots/gaussian_models.py --figure "${picture%%:*}" --results results/fig3 --out "results/${picture#*:}"
  done
fi
for figure in fig4 figG9; do
  if [ -f "results/$figure/smooth.csv" ]; then
    "$python" plots/books.py --results "results/$figure" --out "results/$figure/$figure"
  fi
done
if [ -f results/condition/required.csv ]; then "$python" plots/condition.py --results results/condition; fi
"$python" plots/drawings.py
