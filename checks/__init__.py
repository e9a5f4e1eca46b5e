"""Dagster asset checks, one file per stage; Great Expectations suites live in checks/suites."""
