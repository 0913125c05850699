#!/usr/bin/env bash
# Installs OpenVINO's GenAI library into an environment of its own.
#   bench/peers/install_openvino.sh FOLDER
set -euo pipefail
folder=${1:?usage: install_openvino.sh FOLDER}
[ -x "$folder/bin/python" ] || "${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/python" -m pip install -q openvino-genai fastapi "uvicorn[standard]"
"$folder/bin/python" -c 'import openvino_genai; print(openvino_genai.__version__)' >&2
echo "$folder/bin/python"
