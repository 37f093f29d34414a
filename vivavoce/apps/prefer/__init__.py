"""`vivavoce prefer`: which of two takes is better, asked on a local page."""
