"""Prefect flows, settings, ingest, tracking and the command line."""
