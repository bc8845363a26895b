"""Plain questions to a server: does it answer, and does it let us in?"""

import json
import urllib.error
import urllib.request
from typing import Any

# A proxy from the environment must not see requests that carry the token.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Unreachable(Exception):
    """Nothing answers there, or not in the expected form."""


class Refused(Exception):
    """The server answers, but not to this token (or to no token)."""


def get_json(url: str, token: str | None, timeout_s: float = 5.0) -> Any:
    """GET url with the token as a bearer token and parse the answer."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with _opener.open(request, timeout=timeout_s) as reply:
            return json.loads(reply.read())
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise Refused(f"{url} answers {error.code}") from None
        raise Unreachable(f"{url} answers {error.code}") from None
    except (OSError, ValueError) as error:
        raise Unreachable(f"{url}: {error}") from None


def answers(url: str, token: str | None) -> bool:
    """Does url answer to this token?"""
    try:
        get_json(url, token)
    except (Unreachable, Refused):
        return False
    return True


def is_up(url: str, timeout_s: float = 2.0) -> bool:
    """Does url answer with success, without any token?"""
    try:
        with _opener.open(url, timeout=timeout_s) as reply:
            return 200 <= reply.status < 300
    except OSError:
        return False
