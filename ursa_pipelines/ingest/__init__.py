"""The steps that take a recording from a directory to a catalogued recording, as plain functions.

discover -> hash -> reconstruct_manifest -> upload -> register; `pipeline` runs them for one recording or many.
"""
