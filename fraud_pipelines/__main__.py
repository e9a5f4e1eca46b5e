"""`python -m fraud_pipelines` is `fraud`."""

from fraud_pipelines.cli import main

if __name__ == "__main__":
    main()
