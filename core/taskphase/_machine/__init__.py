"""Who decides: pure state tables, without I/O, clock, thread, logging or user code.

One question a module, one table a question:

- `life`: what is one task doing?
- `scope`: may a deferred task of this unit of work start?
- `drain`: who is cancelled when, while the host closes?
- `dispatch`: who gets an exception, and what does the answer mean?

`config` holds the settings that the tables read, `calling` looks at callables without calling them. Nothing here
imports anything but the standard library.
"""
