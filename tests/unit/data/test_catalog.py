from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fedfleet.data import catalog
from fedfleet.data.catalog import SOURCES, DatasetSpec, describe, open_dataset
from fedfleet.data.config import BUILT_IN, DataConfig
from fedfleet.errors import UnknownDataset

ROOT = Path(catalog.__file__).parents[2]


def test_every_built_in_has_options_and_a_source():
    assert SOURCES.keys() == BUILT_IN.keys()


@pytest.mark.parametrize("name", list(BUILT_IN))
def test_every_built_in_describes_itself_without_data(name):
    needs = {"classes": ("a", "b")} if name in ("coco", "folder", "voc") else {}
    options = BUILT_IN[name](**needs)

    spec = describe(DataConfig(dataset=name, options=options))

    assert isinstance(spec, DatasetSpec)
    assert len(spec.classes) == len(set(spec.classes)) >= 2
    assert len(spec.inputs.mean) == len(spec.inputs.std) == spec.inputs.channels


def test_unknown_data_set_is_refused_with_what_is_there():
    config = DataConfig(dataset="cifar1000", options={})

    for call in (describe, lambda c: open_dataset(c, "train", None)):
        with pytest.raises(UnknownDataset, match="did you mean 'cifar100'") as caught:
            call(config)
        assert caught.value.code == "UNKNOWN_DATASET"


def test_data_need_no_torch_and_a_folder_needs_no_pyarrow():
    code = (
        "import sys\n"
        "import fedfleet.data.shard, fedfleet.data.folder, fedfleet.data.summary\n"
        "import fedfleet.data.coco, fedfleet.data.shapes, fedfleet.data.voc\n"
        "heavy = {'torch', 'pyarrow', 'sklearn'} & set(sys.modules)\n"
        "import fedfleet.data.cifar, fedfleet.data.digits\n"
        "sys.exit(bool(heavy) or 'torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
