"""The specifications that come along: `jobs/*.yaml` here, or beside the installed package."""

from pathlib import Path
from typing import Any


def list_jobs(folder: str | Path | None = None) -> list[dict[str, Any]]:
    """Name, path, kind (sweep or cost) and first comment line of every specification in `folder`."""
    from ruamel.yaml import YAML, YAMLError

    found = []
    for path in sorted(_folder(folder).glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        try:
            data = YAML(typ="safe").load(text)
        except YAMLError:
            continue
        if not isinstance(data, dict):
            continue
        kind = "cost" if "cost" in data else "sweep" if "sweep" in data else None
        if kind is None:
            continue
        summary = text.splitlines()[0].lstrip("# ").strip() if text.startswith("#") else ""
        found.append({"name": str(data[kind]), "kind": kind, "path": str(path), "summary": summary})
    return found


def _folder(folder: str | Path | None) -> Path:
    if folder is not None:
        return Path(folder)
    here = Path("jobs")
    return here if here.is_dir() else Path(__file__).resolve().parents[2] / "jobs"
