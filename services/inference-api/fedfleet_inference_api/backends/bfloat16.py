"""PyTorch in bfloat16 with channels last: for processors that multiply it by instruction.

Half the bytes of float32 with its range, and 8 bits of precision (Kalamkar et al. 2019,
arXiv:1905.12322, section 2): images of a batch are computed in half the time or less, and the
digits behind the second one of an answer are other ones.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import torch

from fedfleet.data.images import Pixels
from fedfleet.training.state import to_tensor
from fedfleet_inference_api.backends.backend import Answers, BackendMissingError, Prepared

_CPU_INFO = Path("/proc/cpuinfo")
# As Linux names them: of x86 with AVX-512 or AMX, of ARM.
_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}


class BFloat16Torch:
    """A copy of the module in bfloat16; pixels are normalised in float32 before.

    Raises:
        BackendMissingError: the processor has no instructions for it.
    """

    name = "torch-bfloat16"

    def __init__(self, prepared: Prepared, cpu_info: Path = _CPU_INFO) -> None:
        if not has_bfloat16(cpu_info):
            raise BackendMissingError("this processor has no instructions for bfloat16")
        self._normalise = prepared.normalise
        module = deepcopy(prepared.module).to(torch.bfloat16)
        self._module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(self, images: Pixels) -> Answers:
        with torch.inference_mode():
            tensor = to_tensor(images).contiguous(memory_format=torch.channels_last)
            given = self._module(self._normalise(tensor).to(torch.bfloat16))
            answers: Answers = given.float().numpy()
        return answers


def has_bfloat16(cpu_info: Path = _CPU_INFO) -> bool:
    """Whether the processor multiplies bfloat16 by instruction; False where nothing tells."""
    try:
        text = cpu_info.read_text()
    except OSError:
        return False
    for line in text.splitlines():
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return not _INSTRUCTIONS.isdisjoint(flags.split())
    return False
