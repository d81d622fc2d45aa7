"""Freeing room on a source: the only room whose code ever changes anything on one (docs/operating.md).

A directory whose every byte is proved in the bucket gets a certificate, moves into the source's trash, waits there,
and is removed file by file. `tree` is the directory by descriptors, `certificate` the document, `judging` says what may
leave, `clutter` what goes with it, `proving` that the bucket has it, `moving` takes it to the trash and back, `purging`
removes it, `ledger` tells what became of it, `desk` does it for many.
"""
