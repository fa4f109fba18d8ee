"""The server that RL systems call over HTTP, and its client. `client` imports neither torch nor the server."""
