"""Measurements that print ratios: `python -m benchmarks`, from the checkout. No test asserts a time."""
