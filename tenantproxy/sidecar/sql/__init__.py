"""SQL over HTTP: `POST /sql` and the WebSocket `/v2` of the public listener, as Neon's clients speak them."""
