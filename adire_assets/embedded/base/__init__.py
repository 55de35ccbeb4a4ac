"""Trains the tiny Stable Diffusion that a fresh clone embeds; see train.py."""
