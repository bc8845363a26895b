"""The examples of docs/training.md are what they say."""

import re
from pathlib import Path

from attnbench.training import read_config

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def test_the_configuration_on_the_page_reads(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "trial.yaml").write_text(block)
    assert read_config(tmp_path / "trial.yaml").objective["passes"] == "concatenated"


def test_the_program_on_the_page_runs(tmp_path, monkeypatch, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, str(PAGE), "exec"), {})
    status, accuracy = capsys.readouterr().out.split()
    assert status == "ok" and 0 <= float(accuracy) <= 1
