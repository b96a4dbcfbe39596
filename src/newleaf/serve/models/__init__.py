"""The models that a server has: the registry, loaded models, and what every route shares."""
