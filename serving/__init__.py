"""The BentoML service that answers APPROVE, REVIEW or BLOCK. It never opens the warehouse."""
