"""What the settings say of the signer; test_signatures.py has what it refuses."""

from __future__ import annotations

import pytest

from fedfleet.errors import SettingInvalid, SignatureInvalid
from fedfleet.identity.signing import Signer
from fedfleet_inference_api.signature_check import SignatureCheck


@pytest.mark.parametrize("store", ["redis://127.0.0.1:6379/0", "rediss://cluster"])
def test_store_that_keeps_no_keys_needs_one_named(store, tmp_path):
    SignatureCheck(str(tmp_path / "signer.pem"), store)
    SignatureCheck("none", store)
    with pytest.raises(SettingInvalid, match="FEDFLEET_SIGNER is not set"):
        SignatureCheck("", store)


def test_check_waits_for_its_key_but_where_it_is_off(tmp_path):
    SignatureCheck("none", f"sqlite:{tmp_path}").prepare()
    for signer in ("", str(tmp_path / "signer.pem")):
        with pytest.raises(SignatureInvalid, match=r"^no signer\.pem yet"):
            SignatureCheck(signer, f"sqlite:{tmp_path}").prepare()
    check = SignatureCheck("", f"sqlite:{tmp_path}")
    Signer.open(tmp_path / "ca")
    check.prepare()
    (tmp_path / "ca" / "signer.pem").unlink()
    check.prepare()
