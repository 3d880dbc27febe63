"""Which nodes of a cluster build a class of hardware, and what is said where none does."""

from dataclasses import replace

from mmdeploy.building.settings import Settings
from mmdeploy.cluster.nodes import Facts, Node
from mmdeploy.core.target import Hardware
from mmdeploy.studies.classes import read_classes
from mmdeploy.studies.matrix_elsewhere import Elsewhere, _fits

XEON = Hardware("a Xeon", 4, ("amx_int8", "avx2", "avx512f"), 2**34, ())
FACTS = Facts("xeon", ("boot",), "", "", "", (), {}, {}, XEON)
NODE = Node("1", 4, 0, 2**34, FACTS)
L4 = Node("2", 4, 1, 2**34, replace(FACTS, name="l4", capabilities=("sm89",)))
AMX, SM89, AVX2 = read_classes("cpu-amx,sm89,cpu-avx2")


def test_a_class_goes_to_nodes_that_are_of_it() -> None:
    assert _fits(NODE, AMX) and not _fits(NODE, SM89) and not _fits(NODE, AVX2)
    assert _fits(L4, SM89) and _fits(L4, AMX)
    assert not _fits(replace(L4, gpus=0), SM89)
    assert not _fits(replace(NODE, refused="mmdeploy is 0.0.9 there"), AMX)
    assert not _fits(replace(NODE, facts=replace(FACTS, hardware=None)), AMX)


def test_a_class_without_a_node_is_told_with_what_there_is() -> None:
    elsewhere = Elsewhere([], Settings())
    elsewhere._nodes = (NODE, L4)
    assert elsewhere._missing(AVX2) == "no node of the cluster is of this class (there are: cpu-amx, sm89)"
    elsewhere._nodes = (NODE, replace(L4, gpus=0))
    assert elsewhere._missing(SM89) == "on the cluster l4 takes none: Ray gives no GPU or core away"
    elsewhere._nodes = (replace(NODE, refused="mmdeploy is 0.0.9 there", facts=replace(FACTS, hardware=None)), L4)
    assert elsewhere._missing(AVX2) == "on the cluster xeon takes none: mmdeploy is 0.0.9 there"
    elsewhere._nodes = ()
    assert elsewhere._missing(AVX2) == "no node of the cluster is of this class (there are: none that has a name)"
