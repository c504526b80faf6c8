"""Records of runs, and what is drawn and written of them; no network, no torch."""
