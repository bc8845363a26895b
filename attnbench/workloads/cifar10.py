"""CIFAR-10: 32x32 colour images of ten kinds of things, from the original archive or from Parquet copies
with JPEG images.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from attnbench.errors import UsageError
from attnbench.workloads.data import SOURCES, cache_folder, data_path, found_form
from attnbench.workloads.ordering import by_class, take_turns
from attnbench.workloads.registry import Parameters, register
from attnbench.workloads.signature import Signature, Split, Workload

if TYPE_CHECKING:
    import numpy as np

# of the 50,000 training images' pixels, scaled to [0, 1], per channel; rounded alike for both forms of the
# data
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
VAL_SHARE = 10


@register("cifar10", data="cifar10")
class CIFAR10(Parameters):
    """CIFAR-10: 60,000 colour images, 32x32, 10 classes.

    train 45,000; val 5,000 cut from the original training part (stratified, fixed); test 10,000. subset:
    use only that many training images (stratified; a smaller subset lies within a larger one);
    evaluation_subset: the same for validation and test each. `data_sha256` tells the original archive from
    Parquet copies, whose JPEG compression is lossy: figures of the two are not comparable to the last
    digit.
    """

    subset: int | None = Field(default=None, ge=1)
    evaluation_subset: int | None = Field(default=None, ge=1)

    def build(self, fold: int) -> Workload:
        """The workload; there is one fold."""
        signature = Signature("image", 10, channels=3, height=32, width=32, mean=MEAN, std=STD)
        parameters = {"name": "cifar10", **self.model_dump()}
        return Workload("cifar10", parameters, fold, signature, "accuracy", self.read)

    def read(self) -> tuple[dict[str, Split], str]:
        """The parts, and the checksum of the files they were read from."""
        import numpy as np

        folder = data_path("cifar10")
        files, checksum = _checksum(folder)
        (images, labels), (test_images, test_labels) = (
            _decoded(folder, files, checksum, p) for p in ("train", "test")
        )
        order = by_class(labels, "cifar10")
        to_val = np.arange(len(order)) % VAL_SHARE == 0
        train = take_turns(order[~to_val], labels)[: self.subset]
        val = take_turns(order[to_val], labels)[: self.evaluation_subset]
        test = take_turns(np.arange(len(test_labels)), test_labels)[: self.evaluation_subset]
        parts = {
            "train": _split(images, labels, train),
            "val": _split(images, labels, val),
            "test": _split(test_images, test_labels, test),
        }
        return parts, checksum


def _split(images: np.ndarray, labels: np.ndarray, chosen: np.ndarray) -> Split:
    """images (E,3,32,32) uint8, labels (E,) -> the chosen ones as float32 in [0,1] and int64."""
    import torch

    return Split(torch.from_numpy(images[chosen]).float().div_(255), torch.from_numpy(labels[chosen]))


def _checksum(folder: Path) -> tuple[tuple[str, ...], str]:
    """The files of the form found in `folder`, and the sha256 of their contents in order."""
    source = SOURCES["cifar10"]
    form = found_form(source, folder)
    if form is None:
        raise UsageError(f"{folder} no longer holds the data set cifar10")
    files = source.forms[form]
    checksum = hashlib.sha256()
    for name in files:
        with (folder / name).open("rb") as file:
            while block := file.read(1 << 20):
                checksum.update(block)
    if len(files) == 1 and checksum.hexdigest() != source.sha256:
        # the archive holds pickles: nothing but the very file that is known may be opened
        raise UsageError(
            f"{folder / files[0]} is damaged or not the original: its sha256 is {checksum.hexdigest()}"
        )
    return files, checksum.hexdigest()


@lru_cache(maxsize=2)
def _decoded(folder: Path, files: tuple[str, ...], checksum: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (E,3,32,32) uint8 and labels (E,) int64 of one part, kept decoded in the user's cache."""
    import numpy as np
    import PIL

    kept = cache_folder() / "cifar10" / f"decoded-{checksum[:16]}-pillow{PIL.__version__}-{part}"
    images_file, labels_file = (
        kept.with_name(kept.name + "-images.npy"),
        kept.with_name(kept.name + "-labels.npy"),
    )
    try:
        return np.load(images_file, mmap_mode="r"), np.load(labels_file)
    except (OSError, ValueError, EOFError):
        pass
    read = _read_archive if len(files) == 1 else _read_parquet
    images, labels = read(folder, part)
    for target, array in ((images_file, images), (labels_file, labels)):
        _keep(target, array)
    return images, labels


def _keep(target: Path, array: np.ndarray) -> None:
    """Write atomically; a cache that cannot be written is only slower."""
    import numpy as np

    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.save(file, array)
        partial.replace(target)
    except OSError:
        partial.unlink(missing_ok=True)


def _read_parquet(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Columns image (bytes of a 32x32 image file) and label (0 to 9)."""
    import numpy as np
    import pyarrow.parquet as pq
    from PIL import Image

    path = folder / f"{part}.parquet"
    try:
        table = pq.read_table(path, columns=["image", "label"])
        images = np.stack(
            [np.asarray(Image.open(io.BytesIO(image)).convert("RGB")) for image in table["image"].to_pylist()]
        )
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path}: not readable as Parquet with columns image and label: {reason}") from None
    if images.shape[1:] != (32, 32, 3):
        raise UsageError(f"{path}: images are {images.shape[1:]}, not (32, 32, 3)")
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), table["label"].to_numpy().astype(np.int64)


def _read_archive(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """The original cifar-10-python.tar.gz, whose checksum has been held."""
    import numpy as np

    names = ["test_batch"] if part == "test" else [f"data_batch_{index}" for index in range(1, 6)]
    images, labels = [], []
    with tarfile.open(folder / "cifar-10-python.tar.gz") as archive:
        for name in names:
            member = archive.extractfile(f"cifar-10-batches-py/{name}")
            assert member is not None
            batch = pickle.load(member, encoding="bytes")
            images.append(batch[b"data"].reshape(-1, 3, 32, 32))
            labels.append(np.asarray(batch[b"labels"], dtype=np.int64))
    return np.concatenate(images), np.concatenate(labels)
