"""The topic that CONTRIBUTING.md adds, published by a node of a copy of the package."""

from __future__ import annotations

from std_msgs.msg import UInt32

from ..contributing import copy_with_examples


def test_added_topic_has_the_number_of_objects(start_node, observer, tmp_path):
    tree = copy_with_examples(tmp_path / "copy")
    start_node(
        str(tree / "nodes" / "vision_node.py"),
        {"source": "scene:?size=640x360&fps=10", "classifier": "none"},
        variables={"PYTHONPATH": tree},
    )
    counts = observer.subscribe(UInt32, "detections/count", heard_from=1)
    assert counts.wait_for(lambda message: message.data > 0).data < 10
