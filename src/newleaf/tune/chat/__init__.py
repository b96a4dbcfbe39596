"""A model that learns to chat: its template and tokens, its objective, what it is asked now and then."""
