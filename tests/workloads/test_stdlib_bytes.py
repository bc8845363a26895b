"""The text workload against the files it is made of."""

import sysconfig
from pathlib import Path

import numpy as np

from attnbench.workloads import PARTS, load
from attnbench.workloads.stdlib_bytes import part_of, sources


def test_each_target_is_the_next_byte_and_windows_do_not_overlap() -> None:
    split = load({"name": "stdlib_bytes", "length": 32, "subset": None, "evaluation_subset": None}).split(
        "val"
    )
    assert (split.inputs[:, 1:] == split.targets[:, :-1]).all()
    # the byte behind a window is the first of the next one
    assert (split.targets[:-1, -1] == split.inputs[1:, 0]).all()


def test_windows_come_from_files_of_their_own_part_only() -> None:
    files = sources(Path(sysconfig.get_paths()["stdlib"]))
    workload = load({"name": "stdlib_bytes", "length": 64, "subset": 50, "evaluation_subset": 50})
    for part in PARTS:
        text = b"\0".join(content for name, content in files.items() if part_of(name) == part)
        for window in workload.split(part).inputs.numpy().astype(np.uint8):
            assert window.tobytes() in text


def test_no_tests_and_no_installed_packages_are_read_and_every_part_is_large() -> None:
    files = sources(Path(sysconfig.get_paths()["stdlib"]))
    assert list(files) == sorted(files)
    assert not any(
        {"site-packages", "test", "tests"} & set(name.split("/")) or name.startswith("_sysconfig")
        for name in files
    )
    sizes = {part: sum(len(text) for name, text in files.items() if part_of(name) == part) for part in PARTS}
    assert min(sizes.values()) > 300_000 and sizes["train"] > 4 * max(sizes["val"], sizes["test"])


def test_a_subset_is_spread_over_the_whole_part() -> None:
    whole = load({"name": "stdlib_bytes", "length": 128, "evaluation_subset": None}).split("test")
    some = load({"name": "stdlib_bytes", "length": 128, "evaluation_subset": 10}).split("test")
    rows = {row.numpy().tobytes(): index for index, row in enumerate(whole.inputs)}
    places = [rows[row.numpy().tobytes()] for row in some.inputs]
    assert len(places) == 10 and places[0] < len(whole) / 10 and places[-1] > len(whole) * 0.85
