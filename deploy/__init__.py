"""Starting and watching processes, and the `dejavec` command. Knows nothing of how they work inside."""
