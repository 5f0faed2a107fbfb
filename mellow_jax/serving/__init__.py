"""The model behind HTTP: OpenAI's chat interface, typed decisions, and a page."""
