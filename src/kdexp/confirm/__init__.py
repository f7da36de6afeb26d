"""Is a study's winner really better than no distillation? Fresh seeds, in pairs, and a verdict."""
