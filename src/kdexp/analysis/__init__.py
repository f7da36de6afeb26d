"""Reads what runs and studies left behind, and shows it; needs neither torch nor Optuna."""
