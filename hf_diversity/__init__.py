"""Within-layer diversity regularisation for the Hugging Face Trainer."""
