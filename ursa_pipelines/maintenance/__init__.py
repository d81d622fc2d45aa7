"""Work on a whole catalog: made anew from the raw bucket, and mended (DESIGN section 6, Rebuild)."""
