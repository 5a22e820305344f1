#!/usr/bin/env bash
# Measures the bipartite mutual information of books with a small language model; needs no GPU and no account.
# Installs into .venv, fetches SmolLM2-135M and four books from before 1920 (132 MB), and measures I(L/2; L) up to
# L = 1024 on 32 documents. Takes 5 to 8 minutes on two cores after the installation; a second run reuses what is there.
# Ends with three lines: I at the largest L, β with its interval, and the path of the picture.
set -euo pipefail
cd "$(dirname "$0")"
. common/environment.sh
environment .venv requirements.txt
# The demo is the same wherever it is called.
# shellcheck disable=SC2086  # settings are words
unset VIRTUAL_ENV CONDA_PREFIX PYTHON $settings
PRESET=demo bash measure_mutual_info/fig2b.sh "$@"
echo
head -n 2 results/demo/summary.txt
echo "picture: results/demo/fig2b.png"
