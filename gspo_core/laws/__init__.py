"""The conformance kit."""

from .checking import check
