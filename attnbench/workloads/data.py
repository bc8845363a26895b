"""Where data files lie: $ATTNBENCH_DATA, then the user's cache, then a download with a checksum."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from attnbench.errors import UsageError


@dataclass(frozen=True)
class Source:
    """A data set of files, in every form that its loader can read, and where the original is."""

    name: str
    forms: Mapping[str, tuple[str, ...]]
    """What a form is, best first, and the files that make it up, relative to the data set's folder."""
    url: str
    sha256: str
    bytes: int


SOURCES = {
    "cifar10": Source(
        name="cifar10",
        forms={
            "original archive": ("cifar-10-python.tar.gz",),
            "Parquet copy, lossy where its images are JPEG": ("train.parquet", "test.parquet"),
        },
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        bytes=170_498_071,
    )
}


def cache_folder() -> Path:
    """Where attnbench keeps what it downloaded or decoded; $XDG_CACHE_HOME and the platform's habit are
    followed.
    """
    if "XDG_CACHE_HOME" in os.environ:
        return Path(os.environ["XDG_CACHE_HOME"]) / "attnbench"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "attnbench"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", str(Path.home()))) / "attnbench" / "cache"
    return Path.home() / ".cache" / "attnbench"


def data_path(name: str) -> Path:
    """The folder that holds data set `name` in a form that its loader reads.

    UsageError: unknown name, or the data are not on this machine. Nothing is downloaded; see `fetch`.
    """
    source = _source(name)
    for folder in search_folders(name):
        if found_form(source, folder) is not None:
            return folder
    wanted = " or ".join(" and ".join(files) for files in source.forms.values())
    raise UsageError(
        f"data set {name} is not on this machine: put {wanted} into {search_folders(name)[0]}, "
        f"or run 'attnbench data fetch {name}' ({source.bytes / 1e6:.0f} MB)"
    )


def found_form(source: Source, folder: Path) -> str | None:
    """The best form of the data that is complete in `folder`, a key of `source.forms`, or None."""
    return next(
        (form for form, files in source.forms.items() if all((folder / file).is_file() for file in files)),
        None,
    )


def search_folders(name: str) -> list[Path]:
    """The folders looked into, in order."""
    given = os.environ.get("ATTNBENCH_DATA")
    return [*([Path(given).expanduser() / name] if given else []), cache_folder() / name]


def fetch(name: str, *, progress: bool = True) -> Path:
    """Download data set `name` into the user's cache unless it is on this machine; returns its folder.

    UsageError: unknown name, no connection, a file that does not match its checksum.
    """
    try:
        return data_path(name)
    except UsageError:
        source = _source(name)
    import pooch

    try:
        pooch.retrieve(
            source.url,
            known_hash=f"sha256:{source.sha256}",
            fname=source.url.rsplit("/", 1)[-1],
            path=cache_folder() / name,
            # without tqdm pooch cannot draw a bar; its own object with update/reset/close is enough
            downloader=pooch.HTTPDownloader(progressbar=_Progress(source) if progress else False),
        )
    except (OSError, ValueError) as error:
        raise UsageError(f"data set {name}: {source.url} could not be fetched: {error}") from error
    return data_path(name)


class _Progress:
    """A percentage on standard error, in the shape that pooch asks of a progress bar."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.total = source.bytes
        self.done = 0

    def update(self, count: int) -> None:
        before, self.done = self.done, self.done + count
        if self.done * 100 // self.total > before * 100 // self.total:
            print(
                f"\r{self.source.name}: {self.done * 100 // self.total} %",
                end="",
                file=sys.stderr,
                flush=True,
            )

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        print(file=sys.stderr)


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise UsageError(f"no data set of files is called {name!r}: there are {', '.join(sorted(SOURCES))}")
    return SOURCES[name]
