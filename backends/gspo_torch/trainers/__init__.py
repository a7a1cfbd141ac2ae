"""Adapters for the trainers that people run. Each module imports its trainer, which is not a dependency of this package.

gspo_torch.trainers.trl      GSPOTrainer and GSPOConfig for TRL
"""
