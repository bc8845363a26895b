"""What holds for every workload: fixed disjoint parts, checksums, one-line errors."""

import hashlib
import subprocess
import sys
from typing import Any

import pytest
import torch

from attnbench.errors import UsageError
from attnbench.workloads import PARTS, canonical, check, folds, load, workloads

SMALL: list[dict[str, Any]] = [
    {"name": "digits"},
    {"name": "digits", "folds": 3, "subset": 100},
    {"name": "mqar", "examples": 3000, "test_examples": 200},
    {"name": "stdlib_bytes", "length": 64, "subset": 3000, "evaluation_subset": 300},
]


def rows(split) -> list[bytes]:
    return [example.numpy().tobytes() for example in split.inputs]


@pytest.mark.parametrize("spec", SMALL, ids=str)
def test_parts_have_the_shapes_of_the_signature(spec) -> None:
    workload = load(spec)
    signature = workload.signature
    for part in PARTS:
        split = workload.split(part)
        assert len(split) == len(split.targets) > 0
        if signature.kind == "image":
            assert split.inputs.shape[1:] == (signature.channels, signature.height, signature.width)
            assert split.inputs.dtype == torch.float32
            assert split.inputs.min() >= 0 and split.inputs.max() <= 1
        else:
            assert split.inputs.shape[1:] == (signature.length,)
            assert split.inputs.dtype == torch.int64
            assert split.inputs.min() >= 0 and split.inputs.max() < signature.vocabulary
        assert split.targets.dtype == torch.int64
        assert split.targets.max() < signature.classes
        assert split.targets.shape == (split.inputs.shape if signature.causal else (len(split),))


@pytest.mark.parametrize("spec", [*SMALL[:3]], ids=str)
def test_no_example_is_in_two_parts(spec) -> None:
    for fold in range(folds(spec)):
        workload = load(spec, fold=fold)
        train, val, test = ({row for row in rows(workload.split(part))} for part in PARTS)
        assert not train & val and not train & test and not val & test


def digest(split) -> str:
    return hashlib.sha256(split.inputs.numpy().tobytes() + split.targets.numpy().tobytes()).hexdigest()


def test_parts_and_checksums_are_the_same_for_every_seed_and_in_every_process() -> None:
    script = (
        "from attnbench.workloads import PARTS, load\n"
        "from tests.workloads.test_parts import SMALL, digest\n"
        "for spec in SMALL:\n"
        "    w = load(spec, seed=7)\n"
        "    print(w.data_sha256, *(digest(w.split(part)) for part in PARTS))"
    )
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    here = [load(spec, seed=1) for spec in SMALL]
    expected = [[w.data_sha256, *(digest(w.split(part)) for part in PARTS)] for w in here]
    assert [line.split() for line in there.splitlines()] == expected


def test_the_checksum_is_one_for_all_folds_and_subsets_and_changes_with_the_data() -> None:
    whole = load("digits").data_sha256
    assert {load("digits", fold=fold).data_sha256 for fold in range(5)} == {whole}
    assert load({"name": "digits", "subset": 50}).data_sha256 == whole
    small = {"name": "mqar", "examples": 10, "test_examples": 10}
    assert load({**small, "data_seed": 0}).data_sha256 != load({**small, "data_seed": 1}).data_sha256


def test_a_smaller_subset_lies_within_a_larger_one_and_leaves_the_other_parts_alone() -> None:
    whole, small, smaller = (load({"name": "digits", "subset": n}) for n in (None, 200, 100))
    assert (
        rows(smaller.split("train")) == rows(small.split("train"))[:100] == rows(whole.split("train"))[:100]
    )
    assert rows(smaller.split("test")) == rows(whole.split("test"))
    assert torch.bincount(smaller.split("train").targets).tolist() == [10] * 10


def test_every_digit_is_tested_in_exactly_one_fold_and_folds_are_stratified() -> None:
    tested = [load("digits", fold=fold).split("test") for fold in range(5)]
    assert sum(map(len, tested)) == 1797
    everything = {row for part in PARTS for row in rows(load("digits").split(part))}
    assert {row for split in tested for row in rows(split)} == everything
    counts = torch.stack([torch.bincount(split.targets) for split in tested])
    assert (counts.max(dim=0).values - counts.min(dim=0).values).max() <= 2


def test_the_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    theirs = {image.astype("float32").tobytes() for image in load_digits().images / 16}
    assert {row for part in PARTS for row in rows(load("digits").split(part))} == theirs


def test_canonical_writes_every_default_and_is_its_own_fixed_point() -> None:
    for name in workloads():
        full = canonical(name)
        assert full["name"] == name and canonical(full) == full
    assert canonical({"name": "digits", "folds": 5}) == canonical("digits")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("digts", "did you mean digits"),
        ({"name": "digits", "subsets": 5}, "did you mean subset"),
        ({"name": "digits", "subset": "5"}, "integer"),
        ({"name": "digits", "subset": True}, "integer"),
        ({"name": "digits", "folds": 1}, "folds"),
        ({"name": "mqar", "length": 63}, "even"),
        ({"name": "mqar", "pairs": 17}, "length of 68"),
        ({"name": "mqar", "vocabulary": 64}, "greater than length"),
        ({}, "name"),
        ({"name": ["digits"]}, "name"),
    ],
)
def test_a_wrong_specification_is_one_clear_line(spec, says) -> None:
    with pytest.raises(UsageError) as caught:
        canonical(spec)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_fold_that_does_not_exist_is_refused() -> None:
    for spec, fold in (("digits", 5), ("digits", -1), ("mqar", 1)):
        with pytest.raises(UsageError, match=f"fold {fold} does not exist"):
            check(spec, fold=fold)


def test_one_specification_is_one_object_in_a_process() -> None:
    assert load("digits") is load({"name": "digits", "folds": 5}, seed=3)
    assert load("digits") is not load("digits", fold=1)


def test_checking_specifications_imports_neither_torch_nor_scikit_learn() -> None:
    script = (
        "import sys; from attnbench.workloads import canonical, check, folds\n"
        "check('digits'); canonical('mqar'); folds('stdlib_bytes')\n"
        "sys.exit(bool({'torch', 'sklearn', 'pyarrow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
