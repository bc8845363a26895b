"""CIFAR-10 in both forms: on files that the test writes, and on the real ones of $ATTNBENCH_DATA."""

import hashlib
import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from attnbench.errors import UsageError
from attnbench.workloads import PARTS, cifar10, data, load, registry


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for the data, and a cache of its own."""
    monkeypatch.setenv("ATTNBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cifar10._decoded.cache_clear()
    registry._load.cache_clear()
    (tmp_path / "data" / "cifar10").mkdir(parents=True)
    return tmp_path / "data" / "cifar10"


def pictures(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(256, size=(count, 32, 32, 3), dtype=np.uint8), np.arange(count) % 10


def write_parquet(folder: Path, sizes: dict[str, int], image_format: str = "PNG") -> dict[str, np.ndarray]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    written = {}
    for seed, (part, count) in enumerate(sizes.items()):
        images, labels = pictures(count, seed)
        encoded = []
        for image in images:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, image_format)
            encoded.append(buffer.getvalue())
        table = pa.table({"image": encoded, "label": labels.astype("uint8"), "path": ["x"] * count})
        pq.write_table(table, folder / f"{part}.parquet")
        written[part] = images
    return written


def test_parquet_copies_are_read_pixel_for_pixel_and_parts_are_disjoint(folder: Path) -> None:
    written = write_parquet(folder, {"train": 200, "test": 50})
    workload = load("cifar10")
    assert [len(workload.split(part)) for part in PARTS] == [180, 20, 50]
    known = {
        image.tobytes(): label for image, label in zip(written["train"], np.arange(200) % 10, strict=True)
    }
    found = set()
    for part in ("train", "val"):
        split = workload.split(part)
        for image, label in zip(split.inputs, split.targets, strict=True):
            pixels = (image * 255).round().byte().permute(1, 2, 0).numpy().tobytes()
            assert known[pixels] == label
            found.add(pixels)
    assert len(found) == 200
    assert np.bincount(workload.split("val").targets.numpy()).tolist() == [2] * 10


def test_the_decoded_images_are_kept_and_give_the_same(folder: Path) -> None:
    write_parquet(folder, {"train": 100, "test": 20}, "JPEG")
    first = load("cifar10").split("train").inputs
    assert len(list(data.cache_folder().glob("cifar10/*.npy"))) == 4
    cifar10._decoded.cache_clear()
    registry._load.cache_clear()
    assert (load("cifar10").split("train").inputs == first).all()


def test_a_damaged_cache_is_decoded_anew(folder: Path) -> None:
    write_parquet(folder, {"train": 100, "test": 20})
    first = load("cifar10").split("train").inputs
    for file in data.cache_folder().glob("cifar10/*.npy"):
        file.write_bytes(b"torn")
    cifar10._decoded.cache_clear()
    registry._load.cache_clear()
    assert (load("cifar10").split("train").inputs == first).all()


def test_the_original_archive_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = pictures(120, 3)
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as archive:
        names = [*(f"data_batch_{index}" for index in range(1, 6)), "test_batch"]
        for place, name in enumerate(names):
            rows = slice(20 * place, 20 * place + 20)
            batch = {
                b"data": images[rows].transpose(0, 3, 1, 2).reshape(20, -1),
                b"labels": labels[rows].tolist(),
            }
            content = pickle.dumps(batch)
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with pytest.raises(UsageError, match="not the original"):
        load("cifar10").split("test")
    checksum = hashlib.sha256((folder / "cifar-10-python.tar.gz").read_bytes()).hexdigest()
    known = data.SOURCES["cifar10"]
    monkeypatch.setitem(data.SOURCES, "cifar10", data.Source(**{**vars(known), "sha256": checksum}))
    workload = load("cifar10")
    assert [len(workload.split(part)) for part in PARTS] == [90, 10, 20]
    tested = {
        (image * 255).round().byte().permute(1, 2, 0).numpy().tobytes()
        for image in workload.split("test").inputs
    }
    assert tested == {image.tobytes() for image in images[100:]}


def test_missing_data_are_one_line_that_says_where_to_put_them(folder: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load("cifar10")
    assert str(folder) in str(caught.value) and "attnbench data fetch cifar10" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_parquet_is_one_line_that_names_it(folder: Path) -> None:
    for part in ("train", "test"):
        (folder / f"{part}.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(UsageError, match=r"train\.parquet") as caught:
        load("cifar10").split("train")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_real_images_load(tmp_path: Path) -> None:
    if "ATTNBENCH_DATA" not in os.environ:
        pytest.fail("set ATTNBENCH_DATA to the folder that holds cifar10")
    cifar10._decoded.cache_clear()
    workload = load({"name": "cifar10", "subset": 1000, "evaluation_subset": 500})
    train = workload.split("train")
    assert [len(workload.split(part)) for part in PARTS] == [1000, 500, 500]
    assert np.allclose(train.inputs.mean(dim=(0, 2, 3)), cifar10.MEAN, atol=0.02)
