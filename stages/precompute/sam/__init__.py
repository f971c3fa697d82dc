"""SAM as a mask generator: its settings, loading, and our batched form of its automatic masks."""
