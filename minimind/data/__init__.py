"""Text and conversations on their way to a model: corpora, shards, packing and the embedded small world."""
