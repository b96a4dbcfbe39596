"""Storage: model folders, training state and the files they are made of."""
