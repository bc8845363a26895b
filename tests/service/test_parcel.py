"""What travels with a submitted job."""

from pathlib import Path

import pytest

from attnbench.errors import UsageError
from attnbench.service.parcel import OUTSIDE, pack


def travels(job: Path, into: Path) -> set[str]:
    into.mkdir()
    pack(job, into)
    return {str(path.relative_to(into)) for path in into.rglob("*") if path.is_file()}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A user's folder: a job that names a mechanism file, beside results and a secret."""
    folder = tmp_path / "project"
    for path, text in {
        "jobs/sweep.yaml": 'attention: [softmax, "ideas/mine.py:Mine", {name: "ideas/other.py:Other"}]\n',
        "ideas/mine.py": "class Mine: ...\n",
        "ideas/other.py": "class Other: ...\n",
        "ideas/unnamed.py": "",
        "results/trials/x.parquet": "",
        ".env": "PASSWORD=1\n",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    monkeypatch.chdir(folder)
    return folder


def test_only_the_specification_and_the_files_that_it_names_travel(here, tmp_path):
    assert travels(Path("jobs/sweep.yaml"), tmp_path / "parcel") == {
        "sweep.yaml",
        "ideas/mine.py",
        "ideas/other.py",
    }


def test_a_file_below_the_current_folder_keeps_its_name_so_that_trials_keep_their_ids(here, tmp_path):
    travels(Path("jobs/sweep.yaml"), tmp_path / "parcel")
    assert (tmp_path / "parcel/sweep.yaml").read_text() == (here / "jobs/sweep.yaml").read_text()


@pytest.mark.parametrize("written", ["../elsewhere/far.py", "{root}/elsewhere/far.py"])
def test_a_file_from_elsewhere_travels_under_a_name_of_its_own(here, tmp_path, written):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/far.py").write_text("class Far: ...\n")
    Path("far.yaml").write_text(f"sweep: s\nattention: ['{written.format(root=tmp_path)}:Far']\n")
    assert travels(Path("far.yaml"), tmp_path / "parcel") == {"far.yaml", f"{OUTSIDE}/far.py"}
    assert f"'{OUTSIDE}/far.py:Far'" in (tmp_path / "parcel/far.yaml").read_text()


def test_two_files_of_one_name_from_elsewhere_are_refused(here, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "far.py").write_text("")
    Path("far.yaml").write_text(f"attention: ['{tmp_path}/one/far.py:A', '{tmp_path}/two/far.py:B']\n")
    with pytest.raises(UsageError, match=r"far\.py; rename one"):
        travels(Path("far.yaml"), tmp_path / "parcel")


def test_a_mechanism_file_that_is_not_there_is_refused(here, tmp_path):
    Path("far.yaml").write_text("attention: ['ideas/gone.py:Gone']\n")
    with pytest.raises(UsageError, match=r"ideas/gone\.py"):
        travels(Path("far.yaml"), tmp_path / "parcel")


def test_a_file_that_only_an_override_names_travels_and_the_override_follows(here, tmp_path):
    (tmp_path / "far.py").write_text("class Far: ...\n")
    (tmp_path / "parcel").mkdir()
    name, overrides = pack(
        Path("jobs/sweep.yaml"), tmp_path / "parcel", [f"attention.0={tmp_path}/far.py:Far", "seeds=2"]
    )
    assert (name, overrides) == (Path("sweep.yaml"), [f"attention.0={OUTSIDE}/far.py:Far", "seeds=2"])
    assert (tmp_path / "parcel" / OUTSIDE / "far.py").exists()


def test_a_yaml_tag_makes_no_object(here, tmp_path):
    Path("tag.yaml").write_text(
        "attention: [softmax]\nnote: !!python/object/apply:os.system ['touch made']\n"
    )
    travels(Path("tag.yaml"), tmp_path / "parcel")
    assert not Path("made").exists()
