"""How the stages run: keys, partitions, resources, dbt, jobs, schedules and sensors. Dagster lives here."""

import warnings

from dagster import BetaWarning, PreviewWarning

# The version of Dagster is pinned: that an interface may change in the next one is no news at every start.
warnings.filterwarnings("ignore", category=BetaWarning)
warnings.filterwarnings("ignore", category=PreviewWarning)
