"""How the stages run: keys, partitions, resources, dbt, jobs, schedules and sensors. Dagster lives here."""
