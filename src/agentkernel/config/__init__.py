"""Settings: one table (`table`), the files and variables they come from (`load`), and the request that they make (`request`)."""
