"""What a result was made with: packages, machine, commit."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import fedfleet

_PACKAGES = ("fedfleet", "torch", "torchvision", "numpy")
_GIT_S = 5.0


def package_versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide a result, as far as installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str]:
    """The machine that this process runs on."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(os.cpu_count() or "unknown"),
    }


def commit() -> str:
    """The commit of the checkout that runs, marked where files differ from it; else empty."""
    root = Path(fedfleet.__file__).parent.parent
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return ""
    head = _git(git, root, "rev-parse", "--short", "HEAD")
    is_dirty = head and _git(git, root, "status", "--porcelain", "--untracked-files=no")
    return f"{head}-dirty" if is_dirty else head


def _git(git: str, root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [git, "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=_GIT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
