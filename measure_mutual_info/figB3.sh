#!/usr/bin/env bash
# Fig. B.3: the direct estimator with and without the 2-gram correction.
# Drawn from the run of Fig. 2b: takes seconds if fig2b.sh has run with the same PRESET (smoke, demo, cpu, paper), else
# as long as fig2b.sh. MODEL, CORPUS, PREPARE_FLAGS, OUT and flags: as for fig2b.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
. measure_mutual_info/_bipartite.sh
begin "smoke demo cpu paper" MODEL CORPUS PREPARE_FLAGS OUT

draw_from_fig2b figB3 "$@"
