"""Documents whose every number can be traced."""
