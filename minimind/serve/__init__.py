"""The server: OpenAI's HTTP interface, the rollout protocol and the web chat page, all over one engine."""
