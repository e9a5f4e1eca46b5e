"""Raw stage: reading a source file, holding it against the contract, loading it; and simulating one."""
