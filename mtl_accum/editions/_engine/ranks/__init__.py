"""Several ranks: shares of a loss, absent tasks, DDP and FSDP2."""
