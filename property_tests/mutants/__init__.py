"""Mutation tests: plant one plausible bug at a time, and run the properties: `python -m property_tests.mutants`.

The bugs are data: each `.toml` file beside this module has the bugs of one part of the code. The files contain no
changes of a single row of a table, because `test_tables` makes all of these.
"""
