"""What the pages say is so: generated pages are current, links lead somewhere, commands and snippets work."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from attnbench.cli.main import application
from attnbench.results.columns import ABOUT, about
from attnbench.results.schemas import TABLES

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
WRITTEN = [page for page in PAGES if "docs/generate.py from the code" not in page.read_text()]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.S | re.M)


def test_generated_pages_are_current():
    done = subprocess.run(
        [sys.executable, ROOT / "docs/generate.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, f"run `make docs`; out of date: {done.stdout or done.stderr}"


def test_every_column_has_a_meaning_and_every_meaning_a_column():
    used = set()
    for table in TABLES.values():
        for column in table.columns:
            assert about(table.name, column)[1], f"{table.name}.{column}"
            used.add(f"{table.name}.{column}" if f"{table.name}.{column}" in ABOUT else column)
    assert set(ABOUT) == used


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_leads_to_a_file_and_a_heading(page):
    for target in re.findall(r"\]\(([^)#\s]*(?:#[^)\s]*)?)\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(), re.M)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target


def commands(page: Path) -> Iterator[list[str]]:
    """Every `attnbench ...` of a page, as words: of indented and shell blocks, and between backquotes."""
    text = re.sub(r"^```(?!sh|console|bash).*?^```", "", page.read_text(), flags=re.S | re.M)
    for line in re.findall(r"^    \$? ?attnbench (.*)$", text, re.M):
        yield re.split(r"\s{2,}", line)[0].split()
    for line in re.findall(r"`(?:\.venv/bin/)?attnbench ([^`]+)`", text):
        yield line.split()


@pytest.mark.parametrize("page", WRITTEN, ids=[str(page.relative_to(ROOT)) for page in WRITTEN])
def test_every_command_exists_with_the_options_that_are_shown(page):
    for words in commands(page):
        node = typer.main.get_command(application())
        said = " ".join(words)
        for word in words:
            choices = getattr(node, "commands", None)
            if choices is None:
                if word.startswith("-") and word != "-":
                    options = {name for one in node.params for name in (*one.opts, *one.secondary_opts)}
                    assert word.split("=")[0] in options | {"--help"}, f"attnbench {said}: {word}"
            elif word.startswith("-") or "|" in word:
                continue
            else:
                assert word in choices, f"attnbench {said}: {word}"
                node = choices[word]


def test_every_specification_in_the_guide_is_accepted(tmp_path):
    from attnbench.sweep import read_specification

    specifications = blocks(ROOT / "docs/user-guide.md", "yaml")
    assert specifications
    for text in specifications:
        (tmp_path / "guide.yaml").write_text(text)
        read_specification(tmp_path / "guide.yaml")


def test_the_pages_python_runs():
    for text in [*blocks(ROOT / "docs/user-guide.md", "python"), *blocks(ROOT / "README.md", "python")]:
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_mechanism_in_contributing_passes_the_checks_and_a_specification_takes_it(tmp_path, monkeypatch):
    from attnbench.sweep import read_specification

    page = ROOT / "CONTRIBUTING.md"
    (file,) = blocks(page, "python")
    (entry,) = re.findall(r"`(\{name: \"temperature.*?\})`", page.read_text())
    monkeypatch.chdir(tmp_path)
    Path("temperature.py").write_text(file)
    check = [sys.executable, "-m", "attnbench.cli.main", "check", "temperature.py:Temperature"]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    Path("job.yaml").write_text(
        "sweep: temperature\nworkload: digits\nhost: {kind: encoder, layers: 1, width: 16, heads: 2}\n"
        f"attention: [softmax, {entry}]\ntrain: {{steps: 10}}\n"
    )
    assert [arm.label for arm in read_specification("job.yaml").arms] == ["softmax", "Temperature"]
