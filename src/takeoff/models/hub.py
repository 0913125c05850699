"""Models of the hub, through huggingface_hub (which honours HF_ENDPOINT, HF_TOKEN and proxies).

The repository's listing gives the commit, the file's size and its SHA-256 (of Git LFS) before a
byte of it comes. `hf_hub_download` keeps no part file since huggingface_hub 2 (each call begins a
file of its own name), so the transfer uses its inner `http_get`, which goes on from our part file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Self, cast

import msgspec
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]
from huggingface_hub.utils.tqdm import silent_tqdm

from takeoff.errors import PullError
from takeoff.models.disk import open_part, part_size, write_whole
from takeoff.models.fetch import gguf_file_name
from takeoff.models.progress import Progress
from takeoff.models.sources import HubSource, store_name

_TIMEOUT_S = 30.0
_SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)
_MAX_LISTED = 20


class _PartVersion(msgspec.Struct, frozen=True):
    """What a part file is a part of."""

    repo: str
    file: str
    commit: str


class HubFetch:
    """One file of a repository at one commit."""

    def __init__(
        self,
        source: HubSource,
        name: str | None,
        commit: str,
        sibling: RepoSibling,
        token: str | None = None,
    ) -> None:
        self.source = source
        self._token = token
        self._sibling_path = sibling.rfilename
        self.file_name = gguf_file_name(sibling.rfilename)
        label = self.file_name.removesuffix(".gguf")
        self.name = name or store_name(label, f"hf:{source.repo}:{sibling.rfilename}")
        self.file_bytes: int | None = sibling.size
        self.sha256 = sibling.lfs.sha256.lower() if sibling.lfs is not None else None
        self.revision: str | None = commit

    @classmethod
    def locate(cls, source: HubSource, name: str | None = None, token: str | None = None) -> Self:
        """Ask the hub which file of which commit `source` means; without `token` the library's own is used.

        Raises:
            PullError: no such repository or file, no right to see it, or a choice to make.
        """
        with _hub_errors(source.repo):
            info = HfApi(token=token).model_info(source.repo, files_metadata=True, timeout=_TIMEOUT_S)
        if info.sha is None:
            raise PullError(f"the hub names no commit of {source.repo}")
        return cls(source, name, info.sha, _choose(source, info.siblings or []), token)

    def space_bytes(self, part: Path) -> int:
        return max((self.file_bytes or 0) - self._resumable_bytes(part), 0)

    def fetch(self, part: Path, progress: Progress) -> None:
        progress.stage(f"downloading {self.file_name}", self.file_bytes)
        have = self._resumable_bytes(part)
        version = _PartVersion(self.source.repo, self._sibling_path, self.revision or "")
        write_whole(_version_path(part), msgspec.json.encode(version))
        url = hf_hub_url(self.source.repo, self._sibling_path, revision=self.revision)
        with open_part(part, keep_bytes=have) as f:
            watched = cast(BinaryIO, _Watched(f, progress.at))
            progress.at(have)
            with _hub_errors(self.source.repo):
                http_get(
                    url,
                    watched,
                    resume_size=have,
                    headers=build_hf_headers(token=self._token, library_name="takeoff"),
                    expected_size=self.file_bytes,
                    tqdm_class=silent_tqdm,  # we draw our own bar
                )

    def _resumable_bytes(self, part: Path) -> int:
        """Bytes of the part file, if it is a piece of this file at this commit."""
        path = _version_path(part)
        if path.is_symlink() or not path.is_file():
            return 0
        try:
            version = msgspec.json.decode(path.read_bytes(), type=_PartVersion)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return 0
        if version != _PartVersion(self.source.repo, self._sibling_path, self.revision or ""):
            return 0
        size = part_size(part)
        return size if self.file_bytes is None or size <= self.file_bytes else 0


def _choose(source: HubSource, siblings: Sequence[RepoSibling]) -> RepoSibling:
    """The one GGUF file that `source` means."""
    files = [
        s for s in siblings if s.rfilename.lower().endswith(".gguf") and "mmproj" not in s.rfilename.lower()
    ]
    if not files:
        raise PullError(
            f"{source.repo} has no GGUF file", hint="look for a repository whose name ends in -GGUF"
        )
    if source.selector is None:
        matching = files
    elif source.selector.lower().endswith(".gguf"):
        matching = [s for s in files if s.rfilename == source.selector]
    else:
        word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(source.selector)}(?![A-Za-z0-9_])", re.IGNORECASE)
        matching = [s for s in files if word.search(s.rfilename)]
    choices = ", ".join(s.rfilename for s in files[:_MAX_LISTED]) + (" …" if len(files) > _MAX_LISTED else "")
    if not matching:
        raise PullError(f"{source.repo} has no file for {source.selector!r}", hint=f"it has {choices}")
    if split := _SPLIT.search(matching[0].rfilename):
        raise PullError(
            f"{matching[0].rfilename} of {source.repo} is one of {int(split[1])} pieces of a model",
            hint="choose a whole file, or join the pieces with llama-gguf-split --merge and use the path",
        )
    if len(matching) > 1:
        raise PullError(
            f"{source} could be any of {len(matching)} files",
            hint=f"add :FILE or :QUANTISATION to name one of {choices}",
        )
    return matching[0]


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into a PullError that says what to do."""
    try:
        yield
    except GatedRepoError as exc:
        raise PullError(
            f"{repo} is gated: its owner lets in only who accepted its terms",
            hint="accept them on the repository's page, then set HF_TOKEN to a token of yours",
        ) from exc
    except RepositoryNotFoundError as exc:
        raise PullError(
            f"the hub has no repository {repo}, or it is private",
            hint="check the name; for a private one set HF_TOKEN",
        ) from exc
    except OfflineModeIsEnabled as exc:
        raise PullError(f"{repo} is not in the store, and HF_HUB_OFFLINE forbids asking the hub") from exc
    except HfHubHTTPError as exc:
        status = exc.response.status_code
        hint = "check HF_TOKEN" if status in (401, 403) else "try again later"
        raise PullError(f"the hub answered {status} for {repo}", hint=hint) from exc
    except HFValidationError as exc:
        raise PullError(f"{repo!r} is not a hub repository: {exc}") from exc
    except TransportError as exc:
        raise PullError(
            f"the hub can't be reached for {repo}: {exc or type(exc).__name__}",
            hint="pull again: it goes on where it stopped; HF_ENDPOINT chooses another hub",
        ) from exc
    except OSError as exc:
        if exc.errno is not None:
            raise  # the disk's, not the hub's
        raise PullError(f"the download of {repo} is not whole: {exc}", hint="pull again") from exc


class _Watched:
    """The part file as `http_get` sees it; tells how far it has come."""

    def __init__(self, file: BinaryIO, at: Callable[[int], None]) -> None:
        self._file = file
        self._at = at

    def write(self, data: bytes) -> int:
        written = self._file.write(data)
        self._at(self._file.tell())
        return written

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int) -> int:
        return self._file.seek(offset)

    def truncate(self) -> int:
        return self._file.truncate()


def _version_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")
