"""What runs in the sandbox's own processes: its files are loaded by path there, one by one.

They import the standard library and nothing else. The judge imports some of them as well: the
codec, the comparison, and the constants that both ends of a channel have to agree on.
"""
