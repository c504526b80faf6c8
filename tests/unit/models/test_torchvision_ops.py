"""Each case needs a process of its own, since operators cannot be taken back."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fedfleet.models import torchvision_ops

ROOT = Path(torchvision_ops.__file__).parents[2]
COMPILER = shutil.which("cc") or shutil.which("gcc")

# A marker result that only the pre-defined or "native" operator can give.
DEFINE = """
import torch
signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
for name in ("nms", "qnms"):
    torch.library.define("torchvision::" + name, signature)
    torch.library.impl(
        "torchvision::" + name, "cpu", lambda dets, scores, iou_threshold: torch.tensor([4711])
    )
"""
CALL = "print(torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5).tolist())"


def run(code: str, *paths: Path) -> str:
    lines = [
        f"import sys; sys.path[:0] = {[str(p) for p in (*paths, ROOT)]}",
        textwrap.dedent(code),
    ]
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:fedfleet", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_torchvision_imports_after_ensure_with_or_without_its_own_library():
    """Whether the library loads is torchvision's word; without it a call says so."""
    out = run("""
        from fedfleet.models.torchvision_ops import ensure_torchvision_ops
        ensure_torchvision_ops()
        ensure_torchvision_ops()
        import torch, torchvision
        ensure_torchvision_ops()
        print(torchvision.models.mobilenet_v3_small(num_classes=3)(torch.zeros(2, 3, 32, 32)).shape)
        try:
            kept = torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
            native = kept.tolist() == [0]
        except NotImplementedError:
            native = False
        print(native == torchvision.extension._has_ops())
    """)

    assert out.splitlines() == ["torch.Size([2, 3])", "True"]


def test_operators_that_exist_already_are_left_alone():
    out = run(f"""
{DEFINE}
from fedfleet.models.torchvision_ops import ensure_torchvision_ops
ensure_torchvision_ops()
{CALL}
""")

    assert out.strip() == "[4711]"


@pytest.mark.skipif(COMPILER is None, reason="no C compiler to build a loadable library with")
@pytest.mark.skipif(sys.platform != "linux", reason="the remedy is for Linux only")
def test_operators_of_a_library_that_loads_are_left_alone(tmp_path: Path):
    """A library that defines the operators when it is loaded, as torchvision's own does."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("")
    source = tmp_path / "native.c"
    quoted = DEFINE.replace('"', '\\"').replace("\n", "\\n")
    source.write_text(f"""
        int PyGILState_Ensure(void);
        void PyGILState_Release(int);
        int PyRun_SimpleString(const char*);
        __attribute__((constructor)) static void define_operators(void) {{
            int gil = PyGILState_Ensure(); PyRun_SimpleString("{quoted}"); PyGILState_Release(gil);
        }}
    """)
    build = [str(COMPILER), "-shared", "-fPIC", "-o", str(package / "_C.so"), str(source)]
    subprocess.run(build, check=True, timeout=60)

    out = run(
        f"""
import torch
assert not hasattr(torch.ops.torchvision, "nms")
from fedfleet.models.torchvision_ops import ensure_torchvision_ops
ensure_torchvision_ops()
ensure_torchvision_ops()
{CALL}
""",
        tmp_path,
    )

    assert out.strip() == "[4711]"
