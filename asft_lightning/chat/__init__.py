"""Text to token ids: rows, how they are written for a model, its vocabulary; the same for training, scoring and anchors."""
