"""Real servers under load, ended at random moments: is any promise broken? See `python -m soak --help`.

`app` is what the servers run, `clients` what loads them, `chaos` ends them in short rounds, `steady` keeps one going
and watches what it uses, and `memory` what it holds. All that happens is written down by `journal`, outside of the
processes, and `checker` reads it.
"""
