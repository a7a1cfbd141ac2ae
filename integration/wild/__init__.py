"""The conformance kit on the losses of other trainers: python -m integration.wild writes a dated record."""
