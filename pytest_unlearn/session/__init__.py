"""Everything that knows pytest: options, collection, fixtures, workers, gate items."""
