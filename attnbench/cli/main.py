"""Entry point of `attnbench`: collects the command groups; UsageError becomes one line and exit code 2."""

import importlib
import os
import sys

import typer

from attnbench.errors import UsageError

GROUPS = (
    "run",
    "attention",
    "trial",
    "cost",
    "compare",
    "query",
    "claims",
    "report",
    "mlflow",
    "service",
    "data",
    "doctor",
)


def application() -> typer.Typer:
    """Build the typer application; every group module imports heavy packages only inside its functions."""
    app = typer.Typer(
        name="attnbench",
        help="Benchmarks attention mechanisms under equal conditions and turns papers' claims into verdicts.",
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
    )
    for group in GROUPS:
        importlib.import_module(f"attnbench.cli.{group}").add(app)
    return app


def main() -> None:
    """Run the command line; exit code 2 and one line on stderr for anything the user can mend."""
    try:
        application()()
    except UsageError as error:
        print(f"attnbench: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        print(
            "attnbench: interrupted; what was finished is kept, the same command goes on from there",
            file=sys.stderr,
        )
        sys.exit(130)


if __name__ == "__main__":
    main()
