"""Our own collection of solutions that cheat, harm or hang, and what has to become of each."""
