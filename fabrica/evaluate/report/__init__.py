"""What was found, as data, and the page that shows it."""
