"""One self-contained HTML page per run: the verdict, the sounds, the numbers, the rights."""
