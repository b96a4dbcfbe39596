"""A model that learns to chat: its template and tokens, its course, what it is asked now and then."""
