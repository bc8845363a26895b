"""The service on one machine: Ray's head with a token, its dashboard, MLflow's server, and jobs.

`start` and `stop` are behind `attnbench up` and `down`; `JobClient` is behind `attnbench submit` and `jobs`.
Everything listens on loopback; the only secret, Ray's token, lies in a file that its owner alone can read.
"""

from attnbench.service.head import start, status, stop
from attnbench.service.jobs import JobClient, submit_sweep
from attnbench.service.state import Session, read_session, state_directory

__all__ = [
    "JobClient",
    "Session",
    "read_session",
    "start",
    "state_directory",
    "status",
    "stop",
    "submit_sweep",
]
