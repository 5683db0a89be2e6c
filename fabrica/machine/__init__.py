"""The machine: its device, memory and processes."""
