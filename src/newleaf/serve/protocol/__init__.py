"""What requests hold: pydantic schemas, and bodies as clients send them."""
