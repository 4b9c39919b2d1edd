"""Soak tests: real servers under load, ended at random moments. Is any promise broken? See `python -m soak --help`.

The servers run `app`, and `clients` loads them. `chaos` ends servers in short rounds. `steady` loads one server for
minutes and measures its resources; `memory` counts its objects. `journal` records all events outside of the server's
process, and `checker` reads the records.
"""
