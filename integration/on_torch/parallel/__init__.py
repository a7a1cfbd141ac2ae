"""A run of several processes: torchrun starts them, torch.distributed joins them."""
