"""What one client does with its data: tasks, losses and their algebra, plans and solvers."""
