# Sourced by figG7.sh and figG8.sh, which draw the runs of Fig. 3 by position.

name=$(basename "$0" .sh)
if [ ! -f "$results/fig3/kl.csv" ]; then bash gaussian_synthetic/fig3.sh; fi
"$python" plots/gaussian_models.py --figure "G.${name#figG}" --results "$results/fig3" --out "$results/$name/$name" "$@"
