"""OpenAI's API: what a request says, what an answer looks like."""
