"""Request bodies: pydantic schemas, and how bodies are read before they are validated."""
