"""A change of the graph shows as a readable diff of lineage.txt; `make lineage` rewrites it."""

from pathlib import Path

from fraud_pipelines.orchestration.lineage import describe


def test_the_graph_is_the_one_on_record(definitions):
    assert describe(definitions) == (Path(__file__).with_name("lineage.txt")).read_text()
