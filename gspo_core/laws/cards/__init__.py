"""Profiles and pages: measuring what a loss computes, and writing results as text, HTML and docs/laws.md."""
