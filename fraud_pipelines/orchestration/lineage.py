"""The lineage graph as text: one line per asset, job, schedule and sensor, in the order data flows.

The snapshot in tests/definitions/lineage.txt makes a change of the graph a readable diff in review.
"""

from collections.abc import Iterator

import dagster as dg

STAGES = ("raw", "staging", "features", "models", "monitoring", "compliance", "operations")


def describe(defs: dg.Definitions) -> str:
    """The whole graph, deterministic, ending with a newline."""
    return "\n".join([*_assets(defs), *_jobs(defs), *_automation(defs)]) + "\n"


def _assets(defs: dg.Definitions) -> Iterator[str]:
    graph = defs.resolve_asset_graph()
    keys = [key for key in graph.get_all_asset_keys() if graph.get(key).is_materializable]
    for key in sorted(keys, key=lambda key: (STAGES.index(key.path[0]), key.path)):
        node = graph.get(key)
        parents = ", ".join(sorted(parent.to_user_string() for parent in node.parent_keys)) or "-"
        checks = sorted(check.name for check in graph.get_check_keys_for_assets({key}))
        cadence = "daily" if node.partitions_def else "on demand"
        yield f"asset {key.to_user_string()} [{node.group_name}] {cadence} <- {parents}"
        for check in checks:
            yield f"    check {check}"


def _jobs(defs: dg.Definitions) -> Iterator[str]:
    graph = defs.resolve_asset_graph()
    for job in sorted(defs.jobs or [], key=lambda job: job.name):
        if not isinstance(job, dg.JobDefinition):
            selected = sorted(key.to_user_string() for key in job.selection.resolve(graph))
            yield f"job {job.name}: {', '.join(selected)}"


def _automation(defs: dg.Definitions) -> Iterator[str]:
    for schedule in sorted(defs.schedules or [], key=lambda schedule: schedule.name):
        if isinstance(schedule, dg.ScheduleDefinition):
            yield f"schedule {schedule.name}: {schedule.cron_schedule} UTC -> {schedule.job_name}"
    for sensor in sorted(defs.sensors or [], key=lambda sensor: sensor.name):
        yield f"sensor {sensor.name}: -> {sensor.job_name}"
