#!/usr/bin/env bash
# Sets up, serves, tests and checks Takeoff. The Makefile only calls this.
#
#   ./setup.sh              make .venv with the locked dependencies (the first time: a native build)
#   ./setup.sh serve ...    set up, then takeoff serve ...
#   ./setup.sh test ...     set up with the tools of development, then pytest ...
#   ./setup.sh chaos ...    set up with the tools of development, then bench/chaos.py ...
#   ./setup.sh soak ...     set up with the tools of development, then bench/soak.py ...
#   ./setup.sh fuzz ...     set up with the tools of development, then bench/fuzz.py ...
#   ./setup.sh test-cluster ...  set up .venv-cluster, with Ray, then pytest on the tests that start a cluster
#   ./setup.sh check        set up with the tools of development, then ruff, mypy and the import test
#
# PYTHON           the interpreter; else the newest of python3.11 to 3.14 on PATH that runs
# CMAKE_ARGS       goes to the native build (-DGGML_CUDA=on, -DGGML_VULKAN=on, ...); remembered until given anew
# BUILD_CACHE_DIR  where native builds are kept for other clones; ~/.cache/takeoff/build
# pip's own settings (PIP_*, pip.conf) and CMAKE_BUILD_PARALLEL_LEVEL are honoured.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=$here/.venv
builds=${BUILD_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/takeoff/build}

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" -eq 0 ]; }
digest() { if have sha256sum; then sha256sum; else shasum -a 256; fi | cut -c1-20; }
pip() { "$venv/bin/python" -m pip "$@"; }
cpu_features() { "$venv/bin/python" -I "$here/src/takeoff/models/cpu_features.py" "$@"; }

# --- What the system lacks: installed when we are root, else named in one line ---

package_manager() {
  local name
  for name in apt-get dnf apk pacman zypper; do
    if have "$name"; then echo "$name"; return; fi
  done
}

packages_for() { # packages_for THING MANAGER: what the system calls it
  case $1:$2 in
    python:apt-get) echo python3 python3-venv ;;
    python:pacman) echo python ;;
    python:*) echo python3 ;;
    venv:apt-get | venv:) "$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])' ;;
    venv:apk) echo py3-virtualenv ;;
    venv:pacman) echo python-virtualenv ;;
    venv:*) echo python3-virtualenv ;;
    compiler:dnf | compiler:zypper) echo gcc-c++ ;;
    compiler:pacman) echo gcc ;;
    compiler:apk) echo build-base linux-headers ;;
    compiler:*) echo g++ ;;
    browser:apt-get | browser:) echo chromium chromium-driver ;;
    browser:apk) echo chromium chromium-chromedriver ;;
    browser:*) echo chromium ;;
  esac
}

install_system() { # install_system THING DESCRIPTION
  local manager packages log
  manager=$(package_manager)
  read -ra packages <<<"$(packages_for "$1" "$manager")"
  if ! is_root || [ -z "$manager" ]; then
    die "$2 is missing: install the package ${packages[*]}${manager:+ with $manager, as root,} and run this again"
  fi
  say "$2 is missing: installing ${packages[*]} with $manager"
  log=$(mktemp)
  case $manager in
    apt-get)
      apt-get update >"$log" 2>&1 || true # a broken foreign source must not stop us
      DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -y --no-install-recommends "${packages[@]}" ;;
    dnf) dnf install -y "${packages[@]}" ;;
    apk) apk add "${packages[@]}" ;;
    pacman) pacman -Sy --noconfirm "${packages[@]}" ;;
    zypper) zypper --non-interactive install "${packages[@]}" ;;
  esac </dev/null >>"$log" 2>&1 || { tail -15 "$log" >&2; die "$manager could not install ${packages[*]}"; }
  rm -f "$log"
}

# A python on PATH may be a stub that doesn't run; only what answers counts.
python_runs() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1; }

find_python() {
  local name
  if [ -n "${PYTHON:-}" ]; then
    python_runs "$PYTHON" || die "PYTHON=$PYTHON is not a working Python 3.11 to 3.14"
    echo "$PYTHON"
    return
  fi
  for name in python3.14 python3.13 python3.12 python3.11 python3; do
    if python_runs "$name"; then echo "$name"; return; fi
  done
}

ensure_python() {
  python=$(find_python)
  [ -z "$python" ] || return 0
  install_system python "Python 3.11 to 3.14"
  python=$(find_python)
  [ -n "$python" ] || die "this system's python3 is not 3.11 to 3.14: install one and set PYTHON to it"
}

ensure_compiler() {
  local name
  for name in ${CXX:+"${CXX%% *}"} c++ g++ clang++; do
    if have "$name"; then return; fi
  done
  install_system compiler "a C++ compiler"
}

ensure_browser() { # the tests look at the pages in a real one
  if have chromium && have chromedriver; then return; fi
  install_system browser "Chromium, which the tests look at the pages with,"
}

# --- The virtual environment ---

python_version() { "$1" -c 'import sys; print(sys.version)' 2>/dev/null; }

venv_fits() { # it runs, has pip, was not left half-made, and is of the Python that was asked for
  [ ! -e "$venv/.incomplete" ] && pip --version >/dev/null 2>&1 || return 1
  [ -z "${PYTHON:-}" ] || [ "$(python_version "$PYTHON")" = "$(python_version "$venv/bin/python")" ]
}

try_venv() { # try_venv COMMAND...: with what is at hand; a failed try leaves nothing
  rm -rf "$venv"
  "$@" "$venv" >/dev/null 2>&1 && pip --version >/dev/null 2>&1
}

make_venv() {
  ensure_python
  try_venv "$python" -m venv && return
  try_venv "$python" -m virtualenv && return
  try_venv virtualenv -p "$python" && return
  try_venv uv venv --seed --python "$python" && return
  rm -rf "$venv"
  install_system venv "Python's venv module"
  try_venv "$python" -m venv || try_venv virtualenv -p "$python" || die "$python can't make a virtual environment"
}

# --- llama.cpp, built for this processor ---

build_jobs() { # one job needs about 1.5 GB at its worst
  local cores free_kb jobs
  cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
  free_kb=$(awk '/^MemAvailable:/ {print $2}' "${MEMINFO:-/proc/meminfo}" 2>/dev/null || true)
  jobs=$((${free_kb:-3000000} / 1500000))
  [ "$jobs" -le "$cores" ] || jobs=$cores
  [ "$jobs" -ge 1 ] || jobs=1
  echo "${CMAKE_BUILD_PARALLEL_LEVEL:-$jobs}"
}

# The locked entry of llama-cpp-python with its hashes; and a lock without it.
native_entry() { awk '/^llama-cpp-python==/ {on=1} on {print} on && !/\\$/ {exit}' "$1"; }
other_entries() { awk '/^llama-cpp-python==/ {off=1} !off {print} off && !/\\$/ {off=0}' "$1"; }

# Ours go first: an option given twice counts as it was given last.
cmake_args() { echo "'-DCMAKE_PROJECT_ggml_INCLUDE=$here/native/backend.cmake' ${CMAKE_ARGS:-}"; }

native_needs() { # what a build is for: other needs, another build
  native_entry "$here/requirements.lock"
  cat "$here"/native/* | digest
  echo "${CMAKE_ARGS:-}"
  uname -sm
  cpu_features list
  "$venv/bin/python" -c 'import sys, sysconfig; print(sys.implementation.cache_tag, sysconfig.get_platform())'
}

native_key() { { native_needs; "${CXX:-c++}" --version 2>/dev/null | head -1 || true; } | digest; }

show_progress() { # show_progress PID LOG: how far the build is, until it ends
  local started=$SECONDS last=$SECONDS step
  while kill -0 "$1" 2>/dev/null; do
    step=$(grep -oE '^ *\[ *[0-9]+(/[0-9]+|%)\]' "$2" 2>/dev/null | tail -1 | tr -d ' []' || true)
    if [ -t 2 ]; then
      printf '\r  building llama.cpp: step %-9s %4d s ' "${step:--}" $((SECONDS - started)) >&2
    elif [ $((SECONDS - last)) -ge 30 ]; then
      last=$SECONDS
      say "  building llama.cpp: step ${step:--}, $((SECONDS - started)) s"
    fi
    sleep 1
  done
  [ ! -t 2 ] || printf '\n' >&2
}

build_native() { # build_native FOLDER: the wheel and its record, complete or not at all
  local partial=$1.partial log=$1.log jobs build
  jobs=$(build_jobs)
  rm -rf "$partial" && mkdir -p "$partial/tmp" # pip works in there, so an interrupted try is cleared by the next
  native_entry "$here/requirements.lock" >"$partial/requirement.txt"
  say "building llama.cpp for this processor with $jobs jobs: about five minutes on two cores (log: $log)"
  set -m # a process group of its own, so that an interruption ends the compilers too
  # SOURCE_DATE_EPOCH would turn GGML_NATIVE off (ggml/CMakeLists.txt)
  env -u SOURCE_DATE_EPOCH TMPDIR="$partial/tmp" CMAKE_ARGS="$(cmake_args)" CMAKE_BUILD_PARALLEL_LEVEL="$jobs" \
    "$venv/bin/python" -m pip wheel -v --no-deps --no-cache-dir --require-hashes --no-binary llama-cpp-python \
    -w "$partial" -r "$partial/requirement.txt" </dev/null >"$log" 2>&1 &
  build=$!
  set +m
  # shellcheck disable=SC2064 # the process of now
  trap "kill -TERM -- -$build 2>/dev/null; die 'interrupted; run it again to go on'" INT TERM HUP
  show_progress "$build" "$log"
  wait "$build" || { tail -25 "$log" >&2; die "the native build failed; its log is $log"; }
  trap - INT TERM HUP
  CMAKE_ARGS=${CMAKE_ARGS:-} cpu_features write "$partial"
  rm -rf "$partial/tmp" "$1" && mv "$partial" "$1"
}

native_folder() { # where the build for these needs is or will be kept; the compiler must be there: its version counts
  mkdir -p "$builds"
  echo "$(cd "$builds" && pwd)/$(native_key)"
}

install_native() {
  local folder
  ensure_compiler
  folder=$(native_folder)
  lock 8 "$folder"
  ls "$folder"/*.whl >/dev/null 2>&1 || build_native "$folder"
  unlock 8 "$folder"
  pip install -qq --no-deps --no-index --force-reinstall "$folder"/*.whl
  cp "$folder/takeoff_build.json" "$(cpu_features folder)"
}

native_is_current() { [ "$(native_needs)" = "$(cat "$venv/.native" 2>/dev/null)" ] && [ -n "$(cpu_features folder)" ]; }

# --- Other people's clients that the tests run, each in an environment of its own ---

client_names() { # one for each folder of tests/clients with a lock
  local locked
  for locked in "$here"/tests/clients/*/requirements.lock; do basename "${locked%/*}"; done
}

client_python() { # old packages have no wheels for a new Python: the oldest that serves comes first
  local name
  for name in python3.11 python3.12; do
    if python_runs "$name"; then echo "$name"; return; fi
  done
  find_python
}

client_folder() { # client_folder NAME PYTHON: another lock or another Python, another folder
  local key
  key=$({ cat "$here/tests/clients/$1/requirements.lock"; python_version "$2"; } | digest)
  mkdir -p "$builds/clients"
  echo "$(cd "$builds/clients" && pwd)/$1-$key"
}

make_client() { # make_client NAME: its environment, made if it is not there; prints the folder
  local python locked=$here/tests/clients/$1/requirements.lock
  [ -f "$locked" ] || die "no client is called $1; there are: $(client_names | tr '\n' ' ')"
  python=$(client_python)
  [ -n "$python" ] || die "the clients that the tests run need a Python 3.11 to 3.14"
  local PYTHON=$python venv # what make_venv and pip work with
  venv=$(client_folder "$1" "$python")
  lock 7 "$venv"
  if [ ! -e "$venv/.complete" ]; then
    say "installing $(grep -c '==' "$locked") locked packages for the tests of $1"
    make_venv
    pip install -qq --require-hashes --no-deps --only-binary :all: --no-compile -r "$locked" ||
      die "the client $1 could not be installed with $("$python" --version)"
    touch "$venv/.complete"
  fi
  unlock 7 "$venv"
  echo "$venv"
}

ensure_clients() { # one that can't be had is named here, and again by the tests that need it
  local name
  for name in $(client_names); do make_client "$name" >/dev/null & done
  wait
}

# --- Locks: two set-ups at once wait for each other ---

lock() { # lock FD PATH: by flock; where that is missing by a folder, taken over from a process that died
  local owner told=
  if have flock; then
    eval "exec $1>\"\$2.lock\""
    flock -n "$1" || { say "waiting for another set-up, which holds $2.lock"; flock "$1"; }
    return
  fi
  until mkdir "$2.lock.d" 2>/dev/null; do
    owner=$(cat "$2.lock.d/pid" 2>/dev/null || true)
    if [ -n "$owner" ] && ! kill -0 "$owner" 2>/dev/null; then rm -rf "$2.lock.d"; continue; fi
    [ -n "$told" ] || say "waiting for another set-up, which holds $2.lock.d"
    told=yes
    sleep 1
  done
  echo $$ >"$2.lock.d/pid"
}
unlock() { eval "exec $1>&-"; rm -rf "$2.lock.d"; }

# --- The verbs ---

remember_cmake_args() { # a CUDA build stays one when the next call doesn't say it again
  if [ -z "${CMAKE_ARGS+given}" ] && [ -f "$venv/.cmake-args" ]; then CMAKE_ARGS=$(cat "$venv/.cmake-args"); fi
  export CMAKE_ARGS="${CMAKE_ARGS:-}"
}

stamp_of() { # stamp_of LOCK: what an installation depends on
  { cat "$1" "$here/requirements.lock" "$here/pyproject.toml"; native_needs; echo "$here"; } 2>/dev/null | digest
}

lock_file() { if [ "$1" = serve ]; then echo "$here/requirements.lock"; else echo "$here/requirements-$1.lock"; fi; }

is_current() { # is_current serve|dev|cluster; what is set up for dev will serve too
  local kind kinds=("$1")
  [ -z "${PYTHON:-}" ] || venv_fits || return 1
  [ "$1" != serve ] || kinds+=(dev)
  for kind in "${kinds[@]}"; do
    [ -f "$venv/.set-up-$kind" ] || continue
    if [ "$(cat "$venv/.set-up-$kind")" = "$(stamp_of "$(lock_file "$kind")")" ]; then return 0; fi
  done
  return 1
}

install_locked() { # install_locked LOCK: everything in it but the native part
  local rest
  rest=$(mktemp)
  other_entries "$1" >"$rest"
  say "installing $(grep -c '==' "$rest") locked packages into ${venv##*/}"
  pip install -qq --require-hashes --no-deps -r "$rest" || die "the packages of ${1##*/} could not be installed"
  rm -f "$rest"
}

set_up() { # set_up serve|dev|cluster
  local locked
  locked=$(lock_file "$1")
  remember_cmake_args
  if is_current "$1"; then return; fi
  lock 9 "$venv"
  trap 'unlock 9 "$venv"' EXIT
  if ! is_current "$1"; then # the one we waited for may have done it
    venv_fits || make_venv
    rm -f "$venv"/.set-up-*
    touch "$venv/.incomplete"
    install_locked "$locked"
    if ! native_is_current; then
      install_native
      native_needs >"$venv/.native"
    fi
    pip install -qq --no-deps --no-build-isolation -e "$here"
    printf '%s' "$CMAKE_ARGS" >"$venv/.cmake-args"
    stamp_of "$locked" >"$venv/.set-up-$1"
    rm -f "$venv/.incomplete"
  fi
  unlock 9 "$venv"
  trap - EXIT
}

test_parts=(ensure_browser ensure_clients) # what the tests need beside Python; each is made while .venv is

set_up_tests() {
  local part running=()
  ensure_python # before the parts: two of them need it
  for part in "${test_parts[@]}"; do
    "$part" &
    running+=($!)
  done
  set_up dev
  for part in "${running[@]}"; do wait "$part" || exit 1; done
}

# Those that compute little run side by side, all others alone: engines that share cores are slow.
light_tests=(tests/http tests/settings tests/keys tests/ipc tests/observe tests/prepare tests/setup)

run_tests() {
  local failed=0
  "$venv/bin/python" -m pytest -n 2 --dist loadfile "${light_tests[@]}" || failed=1
  "$venv/bin/python" -m pytest "${light_tests[@]/#/--ignore=}" || failed=1
  return $failed
}

# Ours of the cluster, and those of clients that must not notice one.
cluster_tests=(tests/cluster tests/clients/test_openai.py tests/clients/test_takeoff_client.py)

main() {
  local verb=${1:-set-up}
  [ $# -eq 0 ] || shift
  cd "$here"
  case $verb in
    set-up) set_up serve ;;
    serve) set_up serve; exec "$venv/bin/takeoff" serve "$@" ;;
    set-up-tests) set_up_tests ;;
    client) make_client "$@" ;;
    test)
      set_up_tests
      [ $# -eq 0 ] || exec "$venv/bin/python" -m pytest "$@"
      run_tests
      ;;
    test-cluster)
      venv=$here/.venv-cluster
      ensure_clients
      set_up cluster
      exec "$venv/bin/python" -m pytest --cluster "${cluster_tests[@]}" "$@"
      ;;
    chaos) set_up dev; exec "$venv/bin/python" bench/chaos.py "$@" ;;
    soak) set_up dev; exec "$venv/bin/python" bench/soak.py "$@" ;;
    fuzz) set_up dev; PYTHONPATH="$here" exec "$venv/bin/python" bench/fuzz.py "$@" ;;
    check)
      set_up dev
      "$venv/bin/ruff" format --check .
      "$venv/bin/ruff" check .
      "$venv/bin/mypy" src
      exec "$venv/bin/python" -m pytest tests/test_imports.py
      ;;
    *) die "unknown verb $verb: it is one of serve, test, test-cluster, chaos, soak, fuzz, check, or none to set up" ;;
  esac
}

[ "${BASH_SOURCE[0]}" != "$0" ] || main "$@"
