"""The object store of the local profile, and the recordings of the demo."""
