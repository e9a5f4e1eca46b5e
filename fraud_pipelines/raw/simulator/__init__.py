"""The built-in simulator: seeded, vectorized card payments with fraud, labels and customers; nothing but numpy.

`simulate(config)` gives a world, `write(world, folder)` the files that mapping `simulator` ingests.
"""

from fraud_pipelines.raw.simulator.config import DRIFT_KINDS, SimulationConfig
from fraud_pipelines.raw.simulator.world import SimulatedWorld, simulate, write

__all__ = ["DRIFT_KINDS", "SimulatedWorld", "SimulationConfig", "simulate", "write"]
