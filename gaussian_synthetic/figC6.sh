#!/usr/bin/env bash
# Fig. C.6: exact information in the sub-volume and the logarithmic family: between the halves, I(L/2; L), and between
# the first and the last position; and how large a linear history state has to be.
#   PRESET=smoke  to L = 1,024                                                              1 CPU core, 10 seconds
#   PRESET=cpu    to L = 1,048,576 (10 layers), ranks to 4,096 (committed; default)         1 CPU core, half a minute
#   PRESET=paper  to L = 65,536 (8 layers)                                                  1 CPU core, 10 seconds
# The paper's numbers: exponent 0.79 = log_4 3, and a logarithm. Flags go to exact_mi.py, e.g. OUT=results/mine bash
# gaussian_synthetic/figC6.sh --copies 64.
# A family of your own: python gaussian_synthetic/exact_mi.py --family mine --k 2 --n 5 --out results/mine
set -euo pipefail
cd "$(dirname "$0")/.."
. common/environment.sh
begin "smoke cpu paper" OUT

case $PRESET in
    smoke) flags=(--layers 1 2 3 4 5 --rank-layers 4) ;;
    cpu) flags=(--layers 1 2 3 4 5 6 7 8 9 10 --rank-layers 6) ;;
    paper) flags=(--layers 1 2 3 4 5 6 7 8) ;;
esac
if [ $# -gt 0 ]; then own_needs_out flags; fi
out=${OUT:-$results/figC6}
for family in subvolume logarithmic; do
    "$python" gaussian_synthetic/exact_mi.py --family "$family" --out "$out/$family" "${flags[@]}" "$@"
done
"$python" plots/families.py --results "$out/subvolume" "$out/logarithmic" --out "$out/figC6"
