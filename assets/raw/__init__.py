"""Raw stage: what sources bring, and what serving decided and analysts said."""
