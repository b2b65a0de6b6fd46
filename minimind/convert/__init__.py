"""To and from other programs: Hugging Face directories and hubs, GGUF, ollama, MiniMind's own `.pth` files."""
