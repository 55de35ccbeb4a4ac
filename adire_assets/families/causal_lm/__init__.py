"""The causal_lm family: language models, whose LoRA is trained on instructions and answers."""
