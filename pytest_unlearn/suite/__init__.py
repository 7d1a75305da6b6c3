"""The bundled tests: `pytest --unlearn-model=NAME`, or `--pyargs pytest_unlearn.suite`."""
