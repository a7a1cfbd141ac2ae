"""Adapters for the trainers that people run. A trainer is not a dependency of this package, and is imported late.

gspo_torch.trainers.trl      GSPOTrainer and GSPOConfig for TRL
gspo_torch.trainers.verl     policy losses for verl, which finds them by itself
gspo_torch.trainers.openrlhf a module in place of OpenRLHF's PolicyLoss
gspo_torch.trainers.skyrl    policy losses for SkyRL's registry
gspo_torch.trainers.torchrl  GSPOLoss in place of torchrl's GRPOLoss
gspo_torch.trainers.tinker   custom losses and weights for tinker
"""
