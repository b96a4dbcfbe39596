"""HTTP: the interface that applications know from OpenAI, over the engine that writes many texts at once."""
