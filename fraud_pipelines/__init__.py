"""The domain of the fraud pipeline: everything that thinks, and the wiring that connects it.

Stages in flow order: raw, features, models, monitoring, compliance, operations.
"""

__version__ = "0.1.0"
