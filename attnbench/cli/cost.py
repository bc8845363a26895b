import typer


def add(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
