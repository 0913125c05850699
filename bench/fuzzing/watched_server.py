"""`takeoff`, watched: `python -m bench.fuzzing.watched_server FOLDER ARGUMENTS`.

Reads lines on its standard input and answers each on its standard output: `arm` begins to watch every thread
but the one that reads here; `tell` answers what was seen since it was asked last, as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

from bench.fuzzing.watch import OWN_CHILD, Watcher

from takeoff.cli.main import main as takeoff
from takeoff.settings import Settings


def _answer(watcher: Watcher) -> None:
    for line in sys.stdin:
        if line == "arm\n":
            watcher.arm(this_thread=False)
        print(json.dumps(watcher.taken()), flush=True)


def main() -> None:
    folder, *arguments = sys.argv[1:]
    readable = [Path("/proc"), Path("/sys"), Settings().store]
    watcher = Watcher(readable=readable, writable=[Path(folder)], startable=OWN_CHILD)
    threading.Thread(target=_answer, args=(watcher,), daemon=True).start()
    sys.argv = ["takeoff", *arguments]
    takeoff()


if __name__ == "__main__":
    main()
