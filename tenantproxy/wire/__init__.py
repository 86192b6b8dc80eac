"""What do the bytes of the PostgreSQL protocol mean? Sans-I/O: bytes in, bytes and values out."""
