"""`attnbench data list | fetch NAME | path NAME`: which data are here, and how to get the others."""

from __future__ import annotations

from typing import Annotated

import typer


def add(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    group = typer.Typer(help="The data sets that workloads read.", no_args_is_help=True)
    group.command("list")(list_data)
    group.command("fetch")(fetch_data)
    group.command("path")(print_path)
    app.add_typer(group, name="data")


def list_data(as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False) -> None:
    """Every workload's data: embedded in the installation, found in a folder, or still to be fetched."""
    import json

    from attnbench.workloads import workloads
    from attnbench.workloads.data import SOURCES, found_form, search_folders

    rows: list[dict[str, object]] = []
    for name, entry in sorted(workloads().items()):
        row: dict[str, object] = {"name": name, "state": "embedded"}
        row |= {"path": None, "form": None, "bytes": None, "url": None}
        if entry.data is not None:
            source = SOURCES[entry.data]
            row |= {"state": "missing", "bytes": source.bytes, "url": source.url}
            for folder in search_folders(entry.data):
                form = found_form(source, folder)
                if form is not None:
                    row |= {"state": "here", "path": str(folder), "form": form}
                    break
        rows.append(row)
    if as_json:
        print(json.dumps(rows))
        return
    width = max(len(str(row["name"])) for row in rows)
    says = {
        "embedded": lambda row: "embedded: part of every installation, or generated",
        "here": lambda row: f"{row['path']} ({row['form']})",
        "missing": lambda row: f"not here: attnbench data fetch {row['name']} ({row['bytes'] / 1e6:.0f} MB)",
    }
    for row in rows:
        print(f"{row['name']:{width}}  {says[str(row['state'])](row)}")


def fetch_data(name: Annotated[str, typer.Argument(help="A data set, such as cifar10.")]) -> None:
    """Download a data set into the user's cache, checksum held; nothing happens where it is here already."""
    if _embedded(name):
        return
    from attnbench.workloads.data import fetch

    print(fetch(name))


def print_path(name: Annotated[str, typer.Argument(help="A data set, such as cifar10.")]) -> None:
    """Print the folder that holds a data set; an error where it is not on this machine."""
    if _embedded(name):
        return
    from attnbench.workloads.data import data_path

    print(data_path(name))


def _embedded(name: str) -> bool:
    """Says so, and is true, where a workload needs no files of its own."""
    from attnbench.workloads import workloads

    entry = workloads().get(name)
    if entry is None or entry.data is not None:
        return False
    print(f"{name}: embedded, needs no files")
    return True
