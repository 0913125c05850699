#!/usr/bin/env bash
# Installs the server that llama-cpp-python brings, with the very wheel that setup.sh built for Takeoff.
#   bench/peers/install_llama_cpp_python_server.sh FOLDER
set -euo pipefail
folder=${1:?usage: install_llama_cpp_python_server.sh FOLDER}
builds=${BUILD_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/takeoff/build}
wheel=$(find "$builds" -name 'llama_cpp_python-*.whl' -printf '%T@ %p\n' | sort -n | tail -1 | cut -d' ' -f2-)
[ -n "$wheel" ] || { echo "error: no wheel of llama-cpp-python below $builds: run ./setup.sh first" >&2; exit 1; }
[ -x "$folder/bin/python" ] || "${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/python" -m pip install -q "$wheel[server]"
"$folder/bin/python" -c 'import llama_cpp, llama_cpp.server; print(llama_cpp.__version__)' >&2
echo "$folder/bin/python"
