from __future__ import annotations

from pathlib import Path

import pytest

from fedfleet.errors import CertificateInvalid
from fedfleet.identity.authority import Authority
from fedfleet.identity.credentials import Credentials
from fedfleet_worker.clock import clock_fault, hint_of

NOW_S, DAY_S = 1_750_000_000.0, 86400.0


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    """Of a week."""
    authority = Authority.open(tmp_path / "authority", NOW_S)
    return authority.server_credentials(NOW_S, 7 * DAY_S)


def test_clock_is_no_fault_within_a_certificates_life(credentials: Credentials) -> None:
    assert clock_fault(credentials.chain, NOW_S) == ""
    assert clock_fault(credentials.chain, NOW_S - 0.9 * DAY_S) == ""  # they are dated back
    assert clock_fault(credentials.chain, NOW_S + 6.9 * DAY_S) == ""


def test_clock_that_is_days_off_is_named_with_both_times(credentials: Credentials) -> None:
    behind = clock_fault(credentials.chain, NOW_S - 2 * DAY_S)
    ahead = clock_fault(credentials.chain, NOW_S + 8 * DAY_S)

    assert "begins at 2025-06-14 15:06:40 UTC" in behind
    assert "this device's clock says 2025-06-13 15:06:40 UTC" in behind
    assert "ended at 2025-06-22 15:06:40 UTC" in ahead


def test_clock_says_nothing_of_what_is_no_certificate() -> None:
    with pytest.raises(CertificateInvalid):
        clock_fault(b"none", NOW_S)


async def test_hint_names_whose_certificate_it_is(credentials: Credentials) -> None:
    nobody = "127.0.0.1:1"

    assert (await hint_of(nobody, credentials)).startswith("this worker's certificate ended at")
    assert await hint_of(nobody, None) == ""
