"""What Prelude is measured beside, each as its users run it."""
