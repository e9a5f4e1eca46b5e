"""Great Expectations suites: one function per table that builds its suite; no JSON by hand."""
