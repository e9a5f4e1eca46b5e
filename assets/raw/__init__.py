"""Raw stage: transactions, labels and customers as a source brings them."""
