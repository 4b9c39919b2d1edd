"""Have the properties teeth? Bugs that somebody could make, planted one at a time: `python -m property_tests.mutants`.

The bugs are data: each `.toml` file beside this one holds those of a part of the code. Changes of a single row of a
table are not among them: `test_tables` makes them all.
"""
