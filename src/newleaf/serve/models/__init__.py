"""Models of a server: the registry, loaded models, and the context that all routes share."""
