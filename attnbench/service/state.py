"""What `attnbench up` remembers: one JSON file and one token file in the user's state directory."""

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from attnbench.errors import UsageError


@dataclass
class Session:
    """One running (or half-started) service.

    temp_dir  Ray's own directory, short because socket paths are limited to 107 characters; it also names the
              session, see `attnbench.service.processes`
    ports     what listens where, all on 127.0.0.1
    started   False until every part has answered once
    """

    temp_dir: str
    results: str
    cpus: int
    ports: dict[str, int]
    token_path: str
    started_at: str
    python: str
    started: bool = False

    @property
    def dashboard_url(self) -> str:
        """Ray's dashboard and the Jobs API: what `submit --address` takes."""
        return f"http://127.0.0.1:{self.ports['dashboard']}"

    @property
    def mlflow_url(self) -> str:
        """The MLflow server over RESULTS/mlflow.db."""
        return f"http://127.0.0.1:{self.ports['mlflow']}"

    def driver_variables(self) -> dict[str, str]:
        """The environment that a driver on this machine needs to join the session's Ray."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": self.token_path,
            # The name misleads: 0 means "one machine only", and without it Ray listens on every interface.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def token(self) -> str | None:
        """Ray's token; None once it is gone."""
        try:
            return Path(self.token_path).read_text()
        except OSError:
            return None

    @property
    def ray_address(self) -> str:
        """Address for `ray.init` and `attnbench run --address` on this machine."""
        return f"127.0.0.1:{self.ports['ray']}"


def state_directory() -> Path:
    """$ATTNBENCH_STATE, else $XDG_STATE_HOME/attnbench, else ~/.local/state/attnbench."""
    if chosen := os.environ.get("ATTNBENCH_STATE"):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser().absolute() / "attnbench"


def join(address: str | None) -> str | None:
    """What `--address auto` means outside a job: this machine's service, its token put into the environment.

    Any other address, and "auto" where no service runs, is returned as it is. Call it before Ray is imported.
    """
    session = read_session()
    if session is None or address not in ("auto", session.ray_address) or "RAY_ADDRESS" in os.environ:
        return address
    os.environ.update(session.driver_variables())
    return session.ray_address


def session_file() -> Path:
    """The file that says what runs."""
    return state_directory() / "service.json"


def token_file() -> Path:
    """The file that holds Ray's token while the service runs."""
    return state_directory() / "token"


def read_session() -> Session | None:
    """Return the session that `up` wrote, running or not; None if there is none."""
    try:
        return Session(**json.loads(session_file().read_text()))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, TypeError) as error:
        raise UsageError(
            f"{session_file()} cannot be read ({error}); delete it and run `attnbench up` again"
        ) from None


def write_session(session: Session) -> None:
    """Write the state file atomically."""
    path = session_file()
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    temporary.write_text(json.dumps(asdict(session), indent=2) + "\n")
    temporary.replace(path)


def forget_session() -> None:
    """Remove the state file and the token, which is worth nothing once its head is gone."""
    session_file().unlink(missing_ok=True)
    token_file().unlink(missing_ok=True)


def write_token() -> Path:
    """Make a new token in a file of mode 600; without a newline, which Ray would take for a part of it."""
    path = token_file()
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return path


@contextlib.contextmanager
def exclusive() -> Iterator[None]:
    """Hold the state directory: two `up` at once would start two heads, a `down` kill a half-started one."""
    directory = state_directory()
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = open(directory / "lock", "w")  # noqa: SIM115  (closed below, after the lock is given back)
    except OSError as error:
        raise UsageError(
            f"{directory} cannot be written ({error.strerror}); set ATTNBENCH_STATE to a directory of yours"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                "another `attnbench up` or `down` is at work; wait for it, then ask `attnbench status`"
            ) from None
        yield
