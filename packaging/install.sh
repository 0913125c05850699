#!/usr/bin/env bash
# Installs Takeoff for any processor of this architecture into a virtual environment, in three steps
# that a container image can keep apart:
#
#   packaging/install.sh kernels FOLDER    the environment, and llama.cpp with kernels for every kind of processor
#   packaging/install.sh packages FOLDER   the other locked packages
#   packaging/install.sh takeoff FOLDER    Takeoff itself
set -euo pipefail

source ./setup.sh
venv=$2

site_packages() { "$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

install_kernels() {
  local requirement libraries library
  python3 -m venv "$venv"
  requirement=$(mktemp)
  native_entry "$here/requirements.lock" >"$requirement"
  # Installed with the other libraries, not as programs in bin: llama_cpp/lib is where they are looked for.
  CMAKE_ARGS="$(cmake_args) -DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON -DCMAKE_INSTALL_BINDIR:PATH=llama_cpp/lib" \
    CMAKE_BUILD_PARALLEL_LEVEL=$(build_jobs) \
    pip install -v --no-deps --no-cache-dir --require-hashes --no-binary llama-cpp-python -r "$requirement"
  rm -f "$requirement"
  # The wheel has each library twice and, as zip knows no links, each three times: one is enough.
  rm -rf "$(site_packages)"/{include,lib}
  libraries=$(site_packages)/llama_cpp/lib
  rm -f "$libraries"/*.so.*.* "$libraries"/libggml-cpu-*.so.*
  for library in "$libraries"/*.so.*; do ln -sf "${library##*/}" "${library%.so.*}.so"; done
  strip --strip-unneeded "$libraries"/*.so
}

install_packages() {
  local rest
  rest=$(mktemp)
  other_entries "$here/requirements.lock" >"$rest"
  pip install --no-cache-dir --require-hashes --no-deps -r "$rest"
  rm -f "$rest"
}

case $1 in
  kernels) install_kernels ;;
  packages) install_packages ;;
  takeoff) pip install --no-cache-dir --no-deps "$here" ;;
  *) die "unknown step $1: it is one of kernels, packages, takeoff" ;;
esac
