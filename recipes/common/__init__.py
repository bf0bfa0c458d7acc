"""What all recipes share: arguments, data, training, results and reports."""
