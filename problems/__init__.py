"""Problem domains of surco, a folder each: specification, simulator, objective, oracle, instances, formats."""
