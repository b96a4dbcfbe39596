"""What is learned beside the next token: preferences, and a teacher's distribution."""
