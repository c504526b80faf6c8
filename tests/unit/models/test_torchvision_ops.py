"""Each case needs a process of its own, since operators cannot be taken back."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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


def test_torchvision_works_after_ensure_with_or_without_its_own_library():
    """Whose operator it is does not show: it keeps the same boxes, and shapes are known of it."""
    out = run("""
        from fedfleet.models.torchvision_ops import ensure_torchvision_ops
        ensure_torchvision_ops()
        ensure_torchvision_ops()
        import torch, torchvision
        ensure_torchvision_ops()
        print(torchvision.models.mobilenet_v3_small(num_classes=3)(torch.zeros(2, 3, 32, 32)).shape)
        boxes = torch.tensor([[0., 0, 10, 10], [0, 1, 10, 11], [20, 20, 30, 30]])
        print(torchvision.ops.nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5).tolist())
        print(torchvision.extension._has_ops())
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.symbolic_shapes import ShapeEnv
        with FakeTensorMode(shape_env=ShapeEnv()):
            print(torch.ops.torchvision.nms(torch.rand(5, 4), torch.rand(5), 0.5).dtype)
    """)

    assert out.splitlines() == ["torch.Size([2, 3])", "[1, 2]", "True", "torch.int64"]


def test_detector_of_torchvision_trains_and_answers_after_ensure():
    out = run("""
        from fedfleet.models.torchvision_ops import ensure_torchvision_ops
        ensure_torchvision_ops()
        import torch
        from torchvision.models.detection import ssdlite320_mobilenet_v3_large
        torch.set_num_threads(1)
        model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
        with torch.inference_mode():
            answer = model.eval()([torch.rand(3, 320, 320)])[0]
        print(answer["boxes"].shape[1], len(answer["boxes"]) == len(answer["scores"]))
        target = {"boxes": torch.tensor([[10., 10, 90, 90]]), "labels": torch.tensor([1])}
        losses = model.train()([torch.rand(3, 320, 320)] * 2, [target] * 2)
        sum(losses.values()).backward()
        print(sorted(losses))
    """)

    assert out.splitlines() == ["4 True", "['bbox_regression', 'classification']"]


def plain_suppression(boxes: torch.Tensor, scores: torch.Tensor, limit: float) -> list[int]:
    """As the operator's documentation says it, box by box."""
    kept: list[int] = []
    for place in scores.argsort(descending=True, stable=True).tolist():
        overlaps = [overlap(boxes[place], boxes[other]) for other in kept]
        if not any(value > limit for value in overlaps):
            kept.append(place)
    return kept


def overlap(a: torch.Tensor, b: torch.Tensor) -> float:
    sides = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0)
    shared = sides.prod()
    return float(shared / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared))


@given(
    st.lists(
        st.tuples(*[st.integers(0, 20)] * 2, *[st.integers(1, 12)] * 2, st.integers(0, 5)),
        max_size=25,
    ),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_suppress_keeps_what_the_definition_keeps(rows, limit, dtype):
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    corners = torch.cat([values[:, :2], values[:, :2] + values[:, 2:4]], dim=1)

    kept = torchvision_ops.suppress(corners.to(dtype), values[:, 4].to(dtype), limit)

    assert kept.dtype == torch.int64
    assert kept.tolist() == plain_suppression(corners, values[:, 4], limit)


def test_suppress_of_empty_and_of_broken_boxes_ends():
    assert torchvision_ops.suppress(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []
    assert torchvision_ops.suppress(torch.zeros(2, 4), torch.zeros(2), 0.5).tolist() == [0, 1]
    broken = torch.full((2, 4), float("nan"))
    assert torchvision_ops.suppress(broken, torch.zeros(2), 0.5).tolist() == [0, 1]


@pytest.mark.parametrize("shapes", [((3, 5), (3,)), ((3, 4), (2,)), ((4,), (1,))])
def test_suppress_refuses_other_shapes(shapes):
    boxes, scores = shapes
    with pytest.raises(RuntimeError, match="expected"):
        torchvision_ops.suppress(torch.zeros(boxes), torch.zeros(scores), 0.5)


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
