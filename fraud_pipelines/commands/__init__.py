"""The commands of `fraud`, by what they are about; cli.py puts them together."""
