"""Where data are looked for, and what the commands say."""

import http.server
import json
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attnbench.cli.main import application
from attnbench.errors import UsageError
from attnbench.workloads import data


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The user's data folder and the cache, both empty."""
    monkeypatch.setenv("ATTNBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "data" / "cifar10", tmp_path / "cache" / "attnbench" / "cifar10"


def fill(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("train.parquet", "test.parquet"):
        (folder / name).write_bytes(b"content")


def test_the_users_folder_comes_before_the_cache(folders: tuple[Path, Path]) -> None:
    given, cache = folders
    fill(cache)
    assert data.data_path("cifar10") == cache
    fill(given)
    assert data.data_path("cifar10") == given


def test_a_form_that_is_not_whole_does_not_count(folders: tuple[Path, Path]) -> None:
    given, _ = folders
    fill(given)
    (given / "test.parquet").unlink()
    with pytest.raises(UsageError, match="not on this machine"):
        data.data_path("cifar10")


@pytest.fixture
def server(tmp_path: Path):
    """A real web server that offers one file."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "cifar-10-python.tar.gz").write_bytes(b"an archive" * 1000)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments, **keywords) -> None:
            super().__init__(*arguments, directory=str(site), **keywords)

        def log_message(self, *_) -> None:
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}/cifar-10-python.tar.gz"
    running.shutdown()
    running.server_close()


def source(url: str, sha256: str) -> data.Source:
    return data.Source(**{**vars(data.SOURCES["cifar10"]), "url": url, "sha256": sha256, "bytes": 10_000})


def test_a_download_is_held_against_its_checksum(folders, server, monkeypatch) -> None:
    import hashlib

    checksum = hashlib.sha256(b"an archive" * 1000).hexdigest()
    monkeypatch.setitem(data.SOURCES, "cifar10", source(server, "0" * 64))
    with pytest.raises(UsageError, match="could not be fetched"):
        data.fetch("cifar10")
    assert not list(folders[1].glob("*.gz"))
    monkeypatch.setitem(data.SOURCES, "cifar10", source(server, checksum))
    assert data.fetch("cifar10") == folders[1]
    assert (folders[1] / "cifar-10-python.tar.gz").read_bytes() == b"an archive" * 1000


def test_no_connection_is_one_line(folders, monkeypatch) -> None:
    monkeypatch.setitem(data.SOURCES, "cifar10", source("http://127.0.0.1:9/x.tar.gz", "0" * 64))
    with pytest.raises(UsageError) as caught:
        data.fetch("cifar10")
    assert "could not be fetched" in str(caught.value) and "\n" not in str(caught.value)


def test_the_commands_say_what_is_here_and_where(folders: tuple[Path, Path]) -> None:
    run = CliRunner()
    listed = json.loads(run.invoke(application(), ["data", "list", "--json"]).stdout)
    states = {row["name"]: row["state"] for row in listed}
    assert states == {
        "digits": "embedded",
        "mqar": "embedded",
        "stdlib_bytes": "embedded",
        "cifar10": "missing",
    }
    fill(folders[0])
    assert f"{folders[0]} (Parquet copy, lossy" in run.invoke(application(), ["data", "list"]).stdout
    assert run.invoke(application(), ["data", "path", "cifar10"]).stdout.strip() == str(folders[0])
    assert run.invoke(application(), ["data", "fetch", "cifar10"]).stdout.strip() == str(folders[0])
    assert "embedded" in run.invoke(application(), ["data", "path", "digits"]).stdout
    wrong = run.invoke(application(), ["data", "path", "cifar"])
    assert wrong.exit_code != 0 and isinstance(wrong.exception, UsageError)
