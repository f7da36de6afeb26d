"""Knowledge distillation experiments: train, sweep, explain and confirm."""

__version__ = "0.1.0"
