"""What the settings say of the signer; test_signatures.py has what it refuses."""

from __future__ import annotations

import pytest

from fedfleet.errors import SettingInvalid
from fedfleet_inference_api.signature_check import SignatureCheck


@pytest.mark.parametrize("store", ["redis://127.0.0.1:6379/0", "rediss://cluster"])
def test_store_that_keeps_no_keys_needs_one_named(store, tmp_path):
    SignatureCheck(str(tmp_path / "signer.pem"), store)
    SignatureCheck("none", store)
    with pytest.raises(SettingInvalid, match="FEDFLEET_SIGNER is not set"):
        SignatureCheck("", store)
