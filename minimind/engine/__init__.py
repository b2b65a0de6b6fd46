"""Generation: choosing the next token, and doing it for many prompts at once."""
