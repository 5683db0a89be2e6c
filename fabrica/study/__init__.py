"""Studies over several runs: does synthetic data help a task?"""
