"""Searches: an Optuna study driven through Hydra, pruned, parallel, resumable, exact."""
