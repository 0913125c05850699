#!/usr/bin/env bash
# Takeoff against llama-server: the same file, the same slots and context, both running, measured in turn.
#   bench/peers/llama_server.sh LLAMA_SERVER MODEL.gguf [takeoff bench options ...]
# FLASH_ATTENTION=on|off is llama-server's (its better setting is the fair one); SLOTS and CONTEXT are for both.
set -euo pipefail
llama_server=${1:?usage: llama_server.sh LLAMA_SERVER MODEL.gguf [options]} model=${2:?a GGUF file}
shift 2
slots=${SLOTS:-32} context=${CONTEXT:-2048}
takeoff=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/.venv/bin/takeoff
started=()
stop() { kill "${started[@]}" 2>/dev/null || true; wait "${started[@]}" 2>/dev/null || true; }
trap stop EXIT

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

await() { # await URL PID: until the server answers, or its process is gone
  until curl -sf "$1" >/dev/null; do kill -0 "$2" || exit 1; sleep 0.2; done
}

ours=$(free_port) theirs=$(free_port)
"$takeoff" serve --model "$model" --port "$ours" --max-slots "$slots" --context "$context" --log-level warning &
started+=($!)
peer=("$llama_server" -m "$model" --host 127.0.0.1 --port "$theirs" -np "$slots" -c $((slots * context))
  --no-kv-unified -t "$(nproc)" -fa "${FLASH_ATTENTION:-on}")
echo "${peer[*]}" >&2
"${peer[@]}" >/dev/null 2>&1 &
started+=($!)
await "http://127.0.0.1:$ours/healthz" "${started[0]}"
await "http://127.0.0.1:$theirs/health" "${started[1]}"
"$takeoff" bench "takeoff=http://127.0.0.1:$ours" "llama-server=http://127.0.0.1:$theirs" "$@"
