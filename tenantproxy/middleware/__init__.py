"""How does a web framework plug in? One plain ASGI class, one aiohttp middleware; neither imports the other."""
