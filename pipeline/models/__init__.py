"""Networks: weights read without executing their files, students, losses."""
