"""Reading what is stored again, within what a day allows (docs/operating.md).

`run` reads what was verified longest ago first and notes what came of it, `reading` is one recording, `queue` says
whose turn it is, `ledger` keeps what was found and what was spent.
"""
