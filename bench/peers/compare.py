"""Takeoff against other servers: all of them running, the same work on each in alternation.

    python bench/peers/compare.py llama-server vllm --model MODEL.gguf --rounds 3 --json RESULT.json

Each server's command is printed. What this program does not know goes to `takeoff bench`: scenarios,
rounds, files of results. The peers are looked for in the folder --peers, under their names:
build_llama_server.sh PEERS/llama-server, install_vllm.sh PEERS/vllm, and so on.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from servers import PEERS, Running, Setup, running, takeoff

IDLE_LIMIT = 0.05  # of a core: a server that takes more while it is idle slows the others
SETTLING_S = 10  # Takeoff hashes the model file in the second after it is ready, for example
BENCH = (sys.executable, "-c", "from takeoff.cli.main import main; main()", "bench")


def add_setup_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="the GGUF file that all of them serve")
    parser.add_argument("--hf-model", type=Path, help="the same for vLLM; default: PEERS/MODEL-bf16")
    parser.add_argument("--peers", type=Path, default=Path.home() / ".cache/takeoff/peers")
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--context", type=int, default=2048, help="tokens of one sequence")


def setup_from(options: argparse.Namespace) -> Setup:
    hf_model = options.hf_model or options.peers / f"{options.model.stem}-bf16"
    return Setup(options.model, hf_model, options.peers, options.slots, options.context)


def start_all(stack: contextlib.ExitStack, setup: Setup, names: list[str]) -> list[Running]:
    """Takeoff and the peers, all ready and all idle."""
    logs = Path(tempfile.mkdtemp(prefix="takeoff-peers-"))
    starts = {"takeoff": takeoff} | {name: PEERS[name] for name in names}
    servers = [
        stack.enter_context(running(name, partial(start, setup), logs / f"{name}.log"))
        for name, start in starts.items()
    ]
    check_idle(servers)
    return servers


def check_idle(servers: list[Running]) -> None:
    """Refuse a server that takes a core while nobody asks it; after its start it may tidy up for a while."""
    for server in servers:
        for _ in range(SETTLING_S):
            if (share := server.idle_share()) <= IDLE_LIMIT:
                break
        print(f"{server.name} takes {100 * share:.1f} % of a core while idle", file=sys.stderr)
        if share > IDLE_LIMIT:
            raise SystemExit(f"{server.name} would slow the others: measure it in a run of its own")


def measure(servers: list[Running], flags: list[str]) -> None:
    urls = [f"{server.name}={server.url}" for server in servers]
    pids = [word for server in servers for word in ("--pid", f"{server.name}={server.pid}")]
    if code := subprocess.run([*BENCH, *urls, *pids, *flags], check=False).returncode:
        raise SystemExit(code)  # it has said why


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("peer", nargs="+", choices=PEERS)
    add_setup_flags(parser)
    options, flags = parser.parse_known_args()
    with contextlib.ExitStack() as stack:
        measure(start_all(stack, setup_from(options), options.peer), flags)


if __name__ == "__main__":
    main()
