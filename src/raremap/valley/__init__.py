"""Simulated valleys with known truth."""
