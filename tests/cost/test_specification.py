"""What a cost specification means, and what becomes of a wrong one."""

from pathlib import Path
from typing import Any

import pytest

from attnbench.cost import CostSpec, read_cost_specification
from attnbench.errors import UsageError

JOBS = Path(__file__).parents[2] / "jobs"
BASE: dict[str, Any] = {"cost": "t", "attention": ["alibi"], "shapes": [{"length": 16}]}


def spec(**changes: Any) -> CostSpec:
    return CostSpec.model_validate({**BASE, **changes})


def write(folder: Path, text: str) -> Path:
    path = folder / "x.yaml"
    path.write_text(text)
    return path


def test_lists_in_parameters_are_axes() -> None:
    arms = spec(attention=[{"name": "attentiondrop_hard", "p": [0.1, 0.2], "k": [0.1, 0.3]}]).arms()
    assert [(a.attention[0]["p"], a.attention[0]["k"]) for a in arms] == [
        (0.1, 0.1), (0.1, 0.3), (0.2, 0.1), (0.2, 0.3),
    ]  # fmt: skip


def test_a_list_of_mechanisms_is_one_composition() -> None:
    (arm,) = spec(attention=[["alibi", {"name": "relaxed", "gamma": 0.1}]]).arms()
    assert [member["name"] for member in arm.attention] == ["alibi", "relaxed"]


def test_a_parameter_whose_value_is_a_list_is_no_axis() -> None:
    (arm,) = spec(attention=[{"name": "alibi", "layers": [0, 2]}]).arms()
    assert arm.attention[0]["layers"] == [0, 2]
    arms = spec(attention=[{"name": "alibi", "layers": {"grid": [[0], [2]]}}]).arms()
    assert [arm.attention[0]["layers"] for arm in arms] == [[0], [2]]


def test_an_objective_rides_on_its_arm_in_either_form() -> None:
    entries = [
        {"attention": "attentiondrop_hard", "objective": {"name": "consistency", "weight": [0.5, 1.0]}},
        {"name": "dropout", "objective": "r_drop"},
    ]
    arms = spec(attention=entries, modes=["step"]).arms()
    assert [arm.objective for arm in arms] == [
        {"name": "consistency", "weight": 0.5},
        {"name": "consistency", "weight": 1.0},
        {"name": "r_drop"},
    ]
    assert "objective" not in arms[2].attention[0]


def test_cells_are_the_product_of_shapes_precisions_and_modes() -> None:
    cells = spec(
        shapes=[{"batch": 2, "length": [8, 16], "causal": [False, True]}, {"length": 8}],
        precision=["fp32", "bf16"],
        modes=["forward", "step"],
    ).cells()
    assert len(cells) == (4 + 1) * 2 * 2
    assert {cell.width for cell in cells} == {64}


def test_asking_the_same_again_has_the_same_identity_and_another_question_another() -> None:
    assert spec().identity == spec().identity != spec(limit_s=3).identity
    assert spec().identity.startswith("t-")


def test_the_example_of_the_design_is_read(tmp_path: Path) -> None:
    text = """
cost: blur-paths
attention: [{name: attentiondrop_blur, w: [3, 5, 9]}]
baseline: softmax                     # measured on its eager and its fused path
shapes: [{batch: 8, heads: 4, length: [128, 512, 2048], head_dim: 64}]
modes: [forward, forward_backward, step]
precision: fp32
repeats: 1
target_half_width: 0.02
limit_s: 30
"""
    read = read_cost_specification(write(tmp_path, text))
    assert len(read.arms()) == 3 and len(read.cells()) == 9
    assert read.baseline_paths == ["reference", "fused"]


@pytest.mark.parametrize("job", ["cost.yaml", "attentiondrop-cost.yaml"])
def test_the_jobs_of_the_repository_are_right(job: str) -> None:
    assert read_cost_specification(JOBS / job).arms()


WRONG = {
    "cost: t\nattention: [softmax]\nshapes: [{lenght: 8}]": (
        r"x.yaml:3: unknown key 'lenght'; did you mean 'length'"
    ),
    "cost: t\nattention: [softmax]\nshapes: [{length: 8}]\nmodels: []": (
        r"x.yaml:4: unknown key 'models'; did you"
    ),
    "cost: t\nattention:\n  - alibi\n  - alibbi\nshapes: [{length: 8}]": r"x.yaml:4: attention\[1\].*alibi",
    "cost: t\nattention: [alibi]\nshapes: [{length: eight}]": r"x.yaml:3: shapes.0.length: .*'eight'",
    "cost: t\nattention: [alibi]\nshapes: [{length: 0}]": (
        r"x.yaml:3: shapes.0.length: must be at least 1, not 0"
    ),
    "cost: t\nattention: [alibi]\nshapes: [{length: 8}]\nmodes: [fwd]": (
        r"x.yaml:4: modes.0: .*forward.*'fwd'"
    ),
    "cost: t\nattention: [alibi]\nshapes: [{length: 8}]\nlimit_s: -1": (
        r"x.yaml:4: limit_s: .*greater than 0, not -1"
    ),
    "cost: t\nattention: [alibi]": r"x.yaml: shapes is missing",
    "cost: a/b\nattention: [alibi]\nshapes: [{length: 8}]": r"x.yaml:1: cost: must name a folder",
    "cost: t\nattention: [alibi]\nshapes: [{length: 8}]\nbaseline: {name: dropout, p: [0.1, 0.2]}": (
        r"x.yaml:4: baseline: a list of values is 2 baselines"
    ),
    "cost: t\nattention: [{name: dropout, objective: r_drop}]\nshapes: [{length: 8}]\nmodes: [forward]": (
        r"x.yaml:2: attention\[0\].*only changes a step"
    ),
    "cost: t\nattention: [{attention: alibi, obective: r_drop}]\nshapes: [{length: 8}]": (
        r"x.yaml:2: attention\[0\]: unknown key 'obective'"
    ),
    "cost: t\nattention: [{name: dropout, p: 2.0}]\nshapes: [{length: 8}]": r"x.yaml:2: attention\[0\]: .*p",
    "cost: t\nattention: [{name: dropout, q: 0.1}]\nshapes: [{length: 8}]": (
        r"x.yaml:2: attention\[0\]: .*'q'"
    ),
    "cost: t\nattention: [alibi]\nbaseline: alibbi\nshapes: [{length: 8}]": r"x.yaml:3: baseline: .*alibi",
    "cost: t\nattention: [3]\nshapes: [{length: 8}]": r"x.yaml:2: attention\[0\]: 3 is no mechanism",
    "cost: t\nattention: [alibi\nshapes": r"x.yaml:\d+: no valid YAML",
    "- softmax": r"x.yaml: a cost specification is a mapping",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_is_one_line_with_the_place_and_what_would_be_right(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=WRONG[text]) as caught:
        read_cost_specification(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml: cannot be read: No such file"):
        read_cost_specification(tmp_path / "none.yaml")


def test_overrides_replace_keys_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "cost: t\nattention: [alibi]\nshapes: [{length: 8}]\n")
    assert read_cost_specification(path, {"limit_s": 3, "modes": ["step"]}).limit_s == 3
    with pytest.raises(UsageError, match="unknown key 'limit'; did you mean 'limit_s'"):
        read_cost_specification(path, {"limit": 3})
