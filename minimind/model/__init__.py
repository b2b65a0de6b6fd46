"""The model: Qwen3 (dense) and Qwen3-MoE decoders, one idea a file."""
