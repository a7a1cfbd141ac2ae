"""Adapters for the trainers that people run. None is a dependency of this package, and none is imported before it is used.

gspo_jax.trainers.tunix      policy losses for Tunix's GRPOLearner
"""
