"""Figures of videos: what generated ones are worth, beside their recordings or alone."""
