"""Serving: an OpenAI-compatible HTTP server over the engine. Only this room imports fastapi and uvicorn."""
