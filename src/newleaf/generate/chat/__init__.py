"""Conversations: rendered, answered, continued."""
