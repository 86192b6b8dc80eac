"""How do several processes serve one configuration? A supervisor owns the sockets, its workers accept from them."""
