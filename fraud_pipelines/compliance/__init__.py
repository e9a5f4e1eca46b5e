"""Compliance: documents whose every number can be traced; facts are gathered, then said, then laid out."""
