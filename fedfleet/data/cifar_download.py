"""Fetches a CIFAR set with torchvision, once, and keeps it in the layout that is read here.

The publisher's archive holds pickles. torchvision checks its hash before it reads them; here they
are turned into Parquet at once, so that no later start touches them (or torch).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from fedfleet.data.images import Pixels
from fedfleet.errors import Unavailable
from fedfleet.models.torchvision_ops import ensure_torchvision_ops

ensure_torchvision_ops()
# The next import fails without the line above, so it cannot stand at the top.
from torchvision import datasets  # noqa: E402

_ROWS_PER_GROUP = 5000
_SETS: Mapping[str, type] = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}


def download(name: str, data_dir: Path, *, label_column: str) -> None:
    """Fetch a set into ``data_dir/name``, which then is complete or not there at all.

    Several workers of one machine may do so at once; the first to finish wins.

    Raises:
        Unavailable: no network, no space, or the archive is not the one that was published.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=data_dir, prefix=f".{name}-") as scratch:
            ready = Path(scratch) / "ready"
            ready.mkdir()
            for split in ("train", "test"):
                archive = Path(scratch) / "archive"
                fetched = _SETS[name](archive, train=split == "train", download=True)
                path = ready / f"{split}-00000-of-00001.parquet"
                write_parquet(path, fetched.data, fetched.targets, label_column=label_column)
            _publish(ready, data_dir / name)
    except (OSError, RuntimeError) as error:
        raise Unavailable(
            f"{name} cannot be downloaded into the data folder; connect this machine once, or put "
            f"the set's Parquet files into {name}/ there",
            detail=repr(error),
        ) from error


def write_parquet(
    path: Path, images_NHWC: Pixels, labels: Sequence[int], *, label_column: str
) -> None:
    """Write images, losslessly as PNG, and labels in the Hugging Face hub's layout."""
    cells = [{"bytes": _png(image), "path": None} for image in images_NHWC]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"img": pa.array(cells, struct), label_column: pa.array(labels, pa.int64())})
    pq.write_table(table, path, row_group_size=_ROWS_PER_GROUP)


def _png(image_HWC: Pixels) -> bytes:
    data = BytesIO()
    Image.fromarray(image_HWC).save(data, "PNG")
    return data.getvalue()


def _publish(ready: Path, target: Path) -> None:
    """Rename the finished folder into place, unless another process was first."""
    try:
        ready.rename(target)
    except OSError:
        if not target.is_dir():
            raise
