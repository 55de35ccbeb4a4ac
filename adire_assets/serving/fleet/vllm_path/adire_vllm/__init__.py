"""What of this project runs inside a vLLM's own environment, and imports nothing else of it."""
