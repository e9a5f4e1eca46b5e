"""Operations: what keeps the running service fed, backed up and within its retention."""
