"""Where it went: what a gate that did not pass limits, stage by stage, component by component, layer group by group."""
