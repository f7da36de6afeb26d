"""The mathematics of distillation: losses, schedules, and the objective that weighs them."""
