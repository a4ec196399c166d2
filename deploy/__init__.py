"""Starting and watching processes, and the `dejavec` command."""
