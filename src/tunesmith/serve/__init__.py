"""Serving: many adapters on one base, a queue, an HTTP server."""
