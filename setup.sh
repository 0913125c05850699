#!/usr/bin/env bash
# Sets up, serves, tests and checks Takeoff. The Makefile only calls this.
#
#   ./setup.sh              make .venv with the locked dependencies (the first time: a native build)
#   ./setup.sh serve ...    set up, then takeoff serve ...
#   ./setup.sh test ...     set up with the tools of development, then pytest ...
#   ./setup.sh check        set up with the tools of development, then ruff, mypy and the import test
#
# PYTHON names the interpreter; CMAKE_ARGS goes to the native build (-DGGML_CUDA=on, -DGGML_VULKAN=on, ...).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=$here/.venv
builds=${XDG_CACHE_HOME:-$HOME/.cache}/takeoff/build

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
is_root() { [ "$(id -u)" -eq 0 ]; }

# install_package NAME...: by the system's package manager, when we are root; else one line that names it.
install_package() {
  is_root || die "$1 is missing; install it (for example: sudo apt-get install $*) and run this again"
  say "installing $* with the system's package manager"
  if command -v apt-get >/dev/null; then
    apt-get update -qq >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
  elif command -v dnf >/dev/null; then dnf install -y -q "$@" >/dev/null
  elif command -v apk >/dev/null; then apk add -q "$@" >/dev/null
  elif command -v pacman >/dev/null; then pacman -Sy --noconfirm "$@" >/dev/null
  else die "$1 is missing and no package manager that we know was found"
  fi || die "the package manager could not install $*"
}

# A python on PATH may be a stub that doesn't run; only what answers counts.
python_runs() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1; }

find_python() {
  local name
  for name in ${PYTHON:-python3.14 python3.13 python3.12 python3.11 python3}; do
    if python_runs "$name"; then command -v "$name"; return; fi
  done
  [ -z "${PYTHON:-}" ] || die "PYTHON=$PYTHON is not a working Python 3.11 to 3.14"
  return 1
}

ensure_python() {
  python=$(find_python) && return
  install_package python3 python3-venv
  python=$(find_python) || die "this system's python3 is not 3.11 to 3.14; install one and set PYTHON to it"
}

make_venv() {
  [ -x "$venv/bin/python" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1 && return
  rm -rf "$venv"
  "$python" -m venv "$venv" >/dev/null 2>&1 && return
  rm -rf "$venv"
  if "$python" -m virtualenv --version >/dev/null 2>&1; then "$python" -m virtualenv -q "$venv" && return; fi
  if command -v virtualenv >/dev/null; then virtualenv -q -p "$python" "$venv" && return; fi
  if command -v uv >/dev/null; then uv venv -q --seed --python "$python" "$venv" && return; fi
  install_package "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
  "$python" -m venv "$venv" >/dev/null || die "$python can't make a virtual environment"
}

ensure_compiler() {
  local name
  for name in "${CXX:-c++}" g++ clang++; do
    command -v "$name" >/dev/null && return
  done
  if command -v apt-get >/dev/null; then install_package g++ libc6-dev; else install_package gcc-c++; fi
}

# One job of the native build needs about 1.5 GB at its worst.
build_jobs() {
  local cores free_kb
  cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
  free_kb=$(awk '/^MemAvailable:/ {print $2}' "${MEMINFO:-/proc/meminfo}" 2>/dev/null)
  local by_memory=$(( ${free_kb:-4000000} / 1500000 ))
  [ "$by_memory" -ge 1 ] || by_memory=1
  [ "$cores" -le "$by_memory" ] && echo "$cores" || echo "$by_memory"
}

# The locked line of llama-cpp-python with its hashes, as a requirements file of its own.
native_requirement() {
  awk '/^llama-cpp-python==/ {on=1} on {print} on && !/\\$/ {exit}' "$here/requirements.lock"
}

# A native build is for this processor, compiler and Python only.
native_key() {
  {
    native_requirement
    echo "${CMAKE_ARGS:-}"
    uname -sm
    "$venv/bin/python" -c 'import sys; print(sys.version_info[:2], sys.implementation.cache_tag)'
    "$venv/bin/python" "$here/src/takeoff/models/cpu_features.py" list
    c++ --version 2>/dev/null | head -1
  } | sha256sum | cut -c1-16
}

show_progress() { # show_progress PID LOG: how far ninja is, until the process ends
  local started=$SECONDS step last=0
  while kill -0 "$1" 2>/dev/null; do
    step=$(grep -o '^ *\[[0-9]*/[0-9]*\]' "$2" 2>/dev/null | tail -1 | tr -d ' ' || true)
    if [ -t 2 ]; then
      printf '\r  building llama.cpp %-12s %4d s ' "$step" $((SECONDS - started)) >&2
    elif [ $((SECONDS - last)) -ge 30 ]; then
      last=$SECONDS
      say "  building llama.cpp $step $((SECONDS - started)) s"
    fi
    sleep 1
  done
  [ ! -t 2 ] || printf '\n' >&2
}

build_native() { # build_native FOLDER: a wheel and the processor's features, complete or not at all
  local folder=$1 partial
  ensure_compiler
  mkdir -p "$builds"
  partial=$(mktemp -d "$builds/partial.XXXXXX")
  native_requirement >"$partial/requirement.txt"
  say "building llama.cpp for this machine: about five minutes on two cores ($(build_jobs) jobs)"
  CMAKE_BUILD_PARALLEL_LEVEL=$(build_jobs) "$venv/bin/python" -m pip wheel --no-deps --no-cache-dir --require-hashes \
    --no-binary llama-cpp-python -v -w "$partial" -r "$partial/requirement.txt" >"$partial/log" 2>&1 &
  show_progress $! "$partial/log"
  if ! wait $!; then
    tail -25 "$partial/log" >&2
    die "the native build failed; its log is $partial/log"
  fi
  "$venv/bin/python" "$here/src/takeoff/models/cpu_features.py" list >"$partial/cpu_features.txt"
  rm -rf "$folder"
  mv "$partial" "$folder"
}

install_native() {
  local folder
  folder=$builds/$(native_key)
  ls "$folder"/*.whl >/dev/null 2>&1 || build_native "$folder"
  "$venv/bin/python" -m pip install -qq --no-deps --force-reinstall "$folder"/*.whl
  cp "$folder/cpu_features.txt" "$("$venv/bin/python" "$here/src/takeoff/models/cpu_features.py" stamp-path)"
}

install_locked() { # install_locked LOCK: everything in it but the native part
  local rest
  rest=$(mktemp)
  awk '/^llama-cpp-python==/ {off=1} !off {print} off && !/\\$/ {off=0}' "$1" >"$rest"
  "$venv/bin/python" -m pip install -qq --require-hashes --no-deps -r "$rest" || { rm -f "$rest"; die "the dependencies in $1 could not be installed"; }
  rm -f "$rest"
}

stamp_of() { # stamp_of LOCK: what an installation depends on
  { cat "$1" "$here/pyproject.toml"; "$venv/bin/python" -V; echo "${CMAKE_ARGS:-} $here"; } 2>/dev/null | sha256sum
}

set_up() { # set_up serve|dev
  local lock=$here/requirements.lock stamp=$venv/.set-up-$1
  [ "$1" = dev ] && lock=$here/requirements-dev.lock
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(stamp_of "$lock")" ] && return
  exec 9>"$here/.venv.lock"
  if command -v flock >/dev/null && ! flock -n 9; then
    say "waiting for another set-up of this folder"
    flock 9
  fi
  ensure_python
  make_venv
  say "installing the locked dependencies into .venv"
  install_locked "$lock"
  native_is_current || { install_native; native_stamp >"$venv/.native"; }
  "$venv/bin/python" -m pip install -qq --no-deps --no-build-isolation -e "$here"
  stamp_of "$lock" >"$stamp"
  exec 9>&-
}

native_stamp() { native_requirement; echo "${CMAKE_ARGS:-}"; "$venv/bin/python" -V; }
native_is_current() { [ -f "$venv/.native" ] && [ "$(native_stamp)" = "$(cat "$venv/.native")" ]; }

ensure_chromium() { # the tests look at the pages in a real browser
  command -v chromium >/dev/null && command -v chromedriver >/dev/null && return
  install_package chromium chromium-driver
}

main() {
  local verb=${1:-set-up}
  [ $# -eq 0 ] || shift
  cd "$here"
  case $verb in
    set-up) set_up serve ;;
    serve) set_up serve; exec "$venv/bin/takeoff" serve "$@" ;;
    test) set_up dev; ensure_chromium; exec "$venv/bin/python" -m pytest "$@" ;;
    set-up-dev) set_up dev ;;
    check)
      set_up dev
      "$venv/bin/ruff" format --check .
      "$venv/bin/ruff" check .
      "$venv/bin/mypy" src
      exec "$venv/bin/python" -m pytest tests/test_imports.py
      ;;
    *) die "unknown verb $verb: it is one of serve, test, check, or none to set up" ;;
  esac
}

[ "${BASH_SOURCE[0]}" != "$0" ] || main "$@"
