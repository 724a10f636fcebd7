"""What runs inside the virtual machine: `python3 -m checks`, as root."""
