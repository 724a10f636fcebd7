"""What people read, as text: lines with a kind, colours, and what is said about a command's end. No I/O but the memory of what was said."""
