"""Turn many updates into one aggregate, exactly."""
