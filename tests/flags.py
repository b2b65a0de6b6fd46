"""Command lines for tests."""


def without(flags, *names):
    """The flags but those of these names, and their values: a list flag that is given again would join them."""
    kept, dropping = [], False
    for item in map(str, flags):
        dropping = item in names if item.startswith("--") else dropping
        if not dropping:
            kept.append(item)
    return kept
