"""Starting and watching processes, and the `dejavec` command. Knows nothing of how the processes work inside."""
