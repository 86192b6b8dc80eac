"""The process: a router with listeners around it, for services in any language."""
