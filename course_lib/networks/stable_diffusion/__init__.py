"""Stable Diffusion 1.x and 2.x: tokenizer, text encoder, U-Net, and the published files' layout."""
