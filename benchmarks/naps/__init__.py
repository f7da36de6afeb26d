"""A tiny system outside kdexp whose training mostly sleeps, so that a benchmark of sweeps measures the sweep."""
