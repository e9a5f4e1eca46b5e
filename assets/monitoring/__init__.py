"""What the champion says about every transaction, and whether that can still be trusted."""
