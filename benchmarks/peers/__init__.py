"""The peers that Prelude is compared with, each as its users run it."""
