"""Array and argument helpers of the core. Backends import `gspo_core.backend` instead."""
