"""The HTTP service: OpenAI's API over one engine that decodes several sequences together."""
