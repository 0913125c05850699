"""Memory of engines in pages of 2 MB, where Linux gives them to whoever asks.

Every step reads the weights, and the keys and values of all that is said so far; with pages of 4 kB
a good part of its time goes to looking addresses up. glibc asks for what it allocates if a variable
says so when the process starts; other libraries and systems don't know the variable.

Source: "Memory Allocation Tunables" in the manual of the GNU C library.
"""

from __future__ import annotations

from collections.abc import Mapping

TUNABLES = "GLIBC_TUNABLES"
_HUGE_PAGES = "glibc.malloc.hugetlb"


def asking_for_huge_pages(environ: Mapping[str, str]) -> dict[str, str]:
    """What to set for an engine; nothing if the user's `environ` says it already, one way or the other."""
    told = environ.get(TUNABLES, "")
    if _HUGE_PAGES in told:
        return {}
    return {TUNABLES: ":".join(filter(None, (told, f"{_HUGE_PAGES}=1")))}
