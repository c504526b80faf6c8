from __future__ import annotations

import subprocess
import sys

CODE = """
import resource
from fedfleet_coordinator.descriptors import MOST, RESERVED, connection_limit, raise_limit
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
low = 700 if hard == resource.RLIM_INFINITY else min(700, hard)
resource.setrlimit(resource.RLIMIT_NOFILE, (low, hard))
assert connection_limit() == max(64, low - RESERVED), connection_limit()
limit = raise_limit()
assert limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
assert limit >= low and (hard == resource.RLIM_INFINITY or limit == hard), (limit, hard)
assert connection_limit() == max(64, min(MOST, limit - RESERVED))
"""


def test_limit_is_raised_and_a_reserve_is_kept() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
