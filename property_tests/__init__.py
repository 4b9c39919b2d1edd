"""The harness: what the tables and the runner do, compared with what a naive model says that they may do."""
