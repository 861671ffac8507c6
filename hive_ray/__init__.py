"""Durable agent graphs on a Ray cluster."""
