"""The page a run ends in: what was trained, how well it does, and what to do next."""
