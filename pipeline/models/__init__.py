"""Networks: checkpoints read without executing anything, students, losses."""
