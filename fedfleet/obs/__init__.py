"""Logging and operational endpoints."""
