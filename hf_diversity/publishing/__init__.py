"""What leaves for the Hub: only files that are meant to be published, without secrets and without local paths."""
